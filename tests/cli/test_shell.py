"""shell: scripts, and sessions on a terminal."""

import json
from pathlib import Path

import pytest

from blobstore import Blobstore, BusyError
from blobstore.cli.group import COMMANDS
from blobstore.cli.shell.command_set import SHELL_COMMANDS
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import Result, Terminal, run, run_here, unchanged


def script(path: Path, text: str, *options: str) -> Result:
    return run_here("shell", path, *options, stdin=text.encode())


def test_a_script_runs_the_commands_on_one_open_store(image: Image, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"from a file")
    done = run(
        "shell",
        image.path,
        stdin=f"""
            # a comment, and an empty line before it
            create 'two words' --size 128K --thin   # made
            write {image.thin:#x} "{tmp_path}/a file"
            snapshot {image.thin}
            read {image.thin} --length 11
            resize {image.thick} 0 --shrink
            super set {image.thick}
            exit
            no command
        """.encode(),
    )
    assert (done.status, done.stderr) == (0, "")
    made, snapshot, content = done.text.splitlines()
    assert content == "from a file"
    with Blobstore.open(image.path, read_only=True) as store:
        assert store.info.clean
        assert store.super_blob == image.thick
        with store.open_blob(int(made, 16)) as blob:
            assert blob.xattrs == {"name": b"two words"}
        with store.open_blob(image.thin) as blob:
            assert blob.info.parent == int(snapshot, 16)


def test_with_json_each_line_gives_one_object(image: Image) -> None:
    text = (
        f"list\n\nxattr get {image.thin} name\nread {image.thin} --length 2\nsuper get\nmap\nhelp\n"
    )
    done = run("shell", image.path, "--json", "--keep-going", stdin=text.encode())
    objects = [json.loads(line) for line in done.text.splitlines()]
    assert [each["schema_version"] for each in objects] == [1] * 5
    assert [list(each)[1] for each in objects] == ["blobs", "id", "id", "total_clusters", "help"]
    error = json.loads(done.stderr)["error"]
    assert error == {"errno": "ENOENT", "message": f"line 5: {image.path}: no super blob is set"}
    assert done.status == 1


def test_json_can_be_asked_for_in_a_line(image: Image) -> None:
    done = script(image.path, f"set-read-only {image.thin} --json\nshow 7 --json\n")
    assert json.loads(done.stdout) == {"schema_version": 1, "id": image.thin, "read_only": True}
    assert json.loads(done.stderr)["error"]["errno"] == "ENOENT"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("fly", "No such command 'fly'.", id="unknown command"),
        pytest.param("show 7", "blob 0x7: no such blob", id="failed"),
        pytest.param("show 'x", "no closing quotation", id="quotes"),
        pytest.param("show", "Missing argument 'BLOB'.", id="usage"),
        pytest.param("init x", "No such command 'init'.", id="not here"),
        pytest.param("help fly", "No such command 'fly'.\n", id="no help"),
        pytest.param("lst", "'lst'. Did you mean 'list'?\n", id="misspelt"),
        pytest.param("help lst", "'lst'. Did you mean 'list'?\n", id="help of a misspelt one"),
        pytest.param("help xattr gte", "'xattr gte'. Did you mean 'get'?\n", id="below another"),
        pytest.param("help list x", "No such command 'list x'.\n", id="nothing is below it"),
        pytest.param(
            "serve",
            "'serve'. The command line has it: `blobstore serve`.\n",
            id="of the command line",
        ),
        pytest.param(
            "help serve",
            "The command line has it: `blobstore serve`.\n",
            id="help of one of the command line",
        ),
        pytest.param("quit", "'quit'. Did you mean 'exit'?\n", id="leaving"),
        pytest.param("blobstore list", "Leave out 'blobstore' and STORE.\n", id="the program"),
        pytest.param("xattr", "Missing command.\n", id="only the first of two words"),
        pytest.param(
            "delete 4294967296", "not on a terminal, --yes is needed", id="cannot be asked"
        ),
        pytest.param("list --force", "No such option", id="an option of opening"),
        pytest.param("write 0x100000000", "standard input is the shell's", id="its own input"),
    ],
)
def test_what_fails_ends_a_script_and_says_in_which_line(
    image: Image, line: str, message: str
) -> None:
    same = unchanged(image.path)
    done = script(image.path, f"# first\n{line}\ncreate --size 1M\n")
    assert (done.status, done.stdout) == (1, b"")
    assert done.stderr.startswith("line 2: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert same()


def test_keep_going_runs_the_rest_and_fails_all_the_same(image: Image) -> None:
    done = script(image.path, "fly\ncreate --size 64K\n", "--keep-going")
    assert (done.status, done.stderr) == (1, "line 1: No such command 'fly'.\n")
    assert done.text.startswith("0x1")


def test_read_only_refuses_changes_and_lets_others_look(image: Image) -> None:
    same = unchanged(image.path)
    done = script(image.path, "list\ncreate --size 64K --json\n", "--read-only")
    assert json.loads(done.stderr)["error"]["errno"] == "EPERM"
    assert same()


def test_an_external_snapshot_is_known_for_the_session(image: Image, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"p" * CLUSTER)
    done = script(
        image.path,
        "create --size 64K --external-snapshot x\nread 0x100000004 --length 3\n",
        "--external",
        f"x={tmp_path}/outside",
    )
    assert done.text == "0x100000004\nppp"


def test_dump_and_grow_work_on_the_open_store(image: Image) -> None:
    before = run_here("dump", image.path).stdout
    assert script(image.path, "dump\n").stdout == before
    with open(image.path, "ab") as file:
        file.truncate(16 << 20)
    assert json.loads(script(image.path, "grow\n", "--json").stdout)["total_clusters"] == 256


def test_after_destroy_there_is_nothing_to_work_on(image: Image) -> None:
    done = script(image.path, "destroy --yes --json\nlist --json\n")
    assert json.loads(done.stderr)["error"]["errno"] == "EBADF"
    assert run_here("info", image.path, "--json").error["errno"] == "EILSEQ"


def test_a_line_of_any_bytes_is_taken(image: Image) -> None:
    text = f"rename {image.thin} ".encode() + b"\xff\n"
    assert run("shell", image.path, stdin=text).status == 0
    shown = run_here("show", image.path, str(image.thin), "--json").json
    assert shown["xattrs"] == {"name": "ff"}


def test_help_shows_how_a_line_looks(image: Image) -> None:
    assert script(image.path, "help\n").text.startswith("Usage: COMMAND [ARGS]...\n")
    assert script(image.path, "help list\n").text.startswith("Usage: list [OPTIONS]\n")
    shown = script(image.path, "help xattr\n").text
    assert shown.startswith("Usage: xattr [OPTIONS] COMMAND [ARGS]...\n")


def test_help_lists_all_commands_and_describes_one(image: Image) -> None:
    listed = script(image.path, "help\n").text.split("Commands:\n")[1]
    assert [line.split()[0] for line in listed.splitlines()] == list(SHELL_COMMANDS)
    servers = {"serve", "rpc", "top", "mount", "attach", "detach"}
    left_out = {"init", "recover", "undo", "shell", "completion", "demo"} | servers
    assert {*SHELL_COMMANDS} == {*COMMANDS} - left_out | {"help", "exit"}
    shown = script(image.path, "help xattr get\n").text
    assert shown == script(image.path, "xattr get --help\n").text
    assert "BLOB NAME" in shown
    assert "STORE" not in shown


def test_a_session_survives_errors_asks_and_holds_the_store(image: Image, tmp_path: Path) -> None:
    with Terminal("shell", image.path, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.type("", until="disk.img> ")
        with pytest.raises(BusyError):
            Blobstore.open(image.path, read_only=True)
        assert "No such command 'fly'.\r\n" in terminal.type("fly\n", until="disk.img> ")
        shown = terminal.type("show 7\n", until="disk.img> ")
        assert "blob 0x7: no such blob\r\n" in shown
        terminal.type(f"delete {image.thick}\n", until="[y/N]: ")
        terminal.type("n\n", until="aborted")
        terminal.type("", until="disk.img> ")
        terminal.type("half a line", until="half a line")
        terminal.interrupt(until="disk.img> ")
        terminal.type(f"delete {image.thick}\n", until="[y/N]: ")
        terminal.type("y\n", until="disk.img> ")
        status, _shown = terminal.end("\x04")
    assert status == 0
    with Blobstore.open(image.path, read_only=True) as store:
        assert store.info.clean
        assert store.blob_ids() == [image.thin]


def test_the_history_lasts_and_holds_no_answers(image: Image, tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    with Terminal("shell", image.path, environment=environment) as terminal:
        terminal.type("", until="disk.img> ")
        terminal.type(f"delete {image.thick}\n", until="[y/N]: ")
        terminal.type("y\n", until="disk.img> ")
        terminal.type("super clear\n", until="disk.img> ")
        assert terminal.end("exit\n")[0] == 0
    history = tmp_path / "blobstore" / "history"
    assert history.read_text().splitlines() == [
        f"delete {image.thick}", "super clear", "exit",
    ]  # fmt: skip
    assert history.stat().st_mode & 0o077 == 0
    with Terminal("shell", image.path, environment=environment) as terminal:
        terminal.type("", until="disk.img> ")
        terminal.type("\x1b[A\x1b[A\x1b[A", until=f"delete {image.thick}")
        terminal.type("\n", until=f"blob {image.thick:#x}: no such blob\r\ndisk.img> ")
        status, _shown = terminal.end("destroy --yes\n")
    assert status == 0


def test_tab_completes_commands_options_ids_names_and_files(image: Image, tmp_path: Path) -> None:
    (tmp_path / "some file").touch()
    (tmp_path / "sub").mkdir()
    with Terminal("shell", image.path, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.type("", until="disk.img> ")
        terminal.type("snap\t", until="snapshot ")
        terminal.type("be\t", until="beta ")
        terminal.type("--js\t", until="--json ")
        terminal.type("\n", until='{"schema_version": 1, "id": ')
        terminal.type("", until="disk.img> ")
        terminal.type("xattr li\t", until="list ")
        shown = terminal.type("0x\t", until="disk.img> xattr list 0x10000000")
        assert f"{image.thick:#x}  alpha" in shown
        assert f"{image.thin:#x}  beta" in shown
        terminal.type("0\n", until="0\r\n")
        assert terminal.type("", until="disk.img> ") == "name  alpha\r\ndisk.img> "
        terminal.type(f"export {image.thin} {tmp_path}/su\t", until="/sub/")
        terminal.type("\x15show 'al\t", until="show 'al")
        assert terminal.end("\x15exit\n")[0] == 0
