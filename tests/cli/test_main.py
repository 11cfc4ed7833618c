"""What holds for every command: help, usage, errors, exit statuses, and a quick start."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import blobstore
from blobstore.cli.group import COMMANDS, module_of
from tests.cli.conftest import Image
from tests.cli.runner import run, run_here, run_process

NO_STORE = ("rpc", "top", "detach", "completion", "demo")
OPTION = re.compile(r"^  (?:-h, )?(--[a-z-]+)", re.MULTILINE)


def modules_after(code: str) -> set[str]:
    code = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_version_is_that_of_the_installed_package() -> None:
    assert run_process("--version").text == f"blobstore {importlib.metadata.version('blobstore')}\n"


def test_the_version_is_also_answered_among_other_options() -> None:
    assert run_process("--version", "--help").text.startswith("blobstore ")


def test_the_version_needs_neither_click_nor_numpy_nor_rich_nor_any_command() -> None:
    code = "from blobstore.cli.main import main; main(['--version'])"
    loaded = modules_after(code)
    assert not {"click", "numpy", "rich", "typing", "blobstore.api.blobstore"} & loaded
    assert not [name for name in loaded if name.startswith("blobstore.cli.commands")]


def test_help_needs_no_command_and_no_store() -> None:
    loaded = modules_after("from blobstore.cli.group import run; run(['--help'])")
    assert not {"numpy", "rich", "blobstore.api.blobstore"} & loaded
    assert not [name for name in loaded if name.startswith("blobstore.cli.commands")]


def test_importing_the_package_imports_none_of_what_is_slow() -> None:
    assert not {"numpy", "asyncio", "click", "rich"} & modules_after("import blobstore")


@pytest.mark.parametrize("command", ["list", "info", "show"])
def test_looking_at_a_small_store_needs_no_numpy(image: Image, command: str) -> None:
    words = [command, str(image.path), *(["beta"] if command == "show" else [])]
    loaded = modules_after(f"from blobstore.cli.main import main; main({words!r})")
    assert "blobstore.api.blobstore" in loaded
    assert not {"numpy", "json", "rich", "hashlib", "asyncio"} & loaded


def test_a_command_runs_with_the_garbage_collector(image: Image) -> None:
    code = f"from blobstore.cli.main import main; main(['list', {str(image.path)!r}]); import gc"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}; print(gc.isenabled())"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "True"


def test_the_installed_script_runs_the_same() -> None:
    script = Path(sys.executable).with_name("blobstore")
    done = subprocess.run([script, "--version"], capture_output=True, check=True)
    assert done.stdout == run_process("--version").stdout


def test_help_lists_every_command() -> None:
    shown = run("--help")
    assert shown.status == 0
    listed = shown.text.split("Commands:\n")[1]
    assert [line.split()[0] for line in listed.splitlines()] == list(COMMANDS)


def command_called(name: str) -> click.Command:
    module = importlib.import_module(f"blobstore.cli.commands.{module_of(name)}")
    command: click.Command = module.command
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_module_and_help(name: str) -> None:
    command = command_called(name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_STORE])
def test_every_command_that_opens_a_store_has_the_same_options(name: str) -> None:
    command = command_called(name)
    for each in command.commands.values() if isinstance(command, click.Group) else [command]:
        options = {option for param in each.params for option in param.opts}
        assert options >= {
            "store", "--json", "--force", "--atomic-write", "--external", "--direct", "--wait"
        }  # fmt: skip


def each_store_command() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = command_called(name)
        if isinstance(command, click.Group):
            for below in command.commands.values():
                yield f"{name} {below.name}", below
        elif name not in NO_STORE:
            yield name, command


LOOKING = {
    "info", "list", "show", "read", "export", "xattr list", "xattr get", "super get",
    "shallow-copy", "map", "dump", "rescue", "diff", "du", "send",
}  # fmt: skip


def test_yes_is_accepted_by_every_command_that_changes_something() -> None:
    accepting = {
        name
        for name, command in each_store_command()
        if "--yes" in {option for param in command.params for option in param.opts}
    }
    everything = {name for name, _command in each_store_command()}
    assert accepting == everything - LOOKING | {"export", "send"}


@pytest.mark.parametrize(
    ("command", "own", "common"),
    [
        ("info", [], ["--direct", "--wait", "--json", "--help"]),
        ("resize", ["--shrink", "--yes"],
         ["--direct", "--atomic-write", "--force", "--wait", "--json", "--help"]),
        ("read", ["--offset", "--length", "--zero-fill",
                  "--cluster-size", "--md-start", "--md-pages"],
         ["--external", "--direct", "--wait", "--json", "--help"]),
        ("check", ["--repair", "--dry-run", "--undo"],
         ["--direct", "--atomic-write", "--wait", "--json", "--help"]),
    ],
)  # fmt: skip
def test_help_shows_a_commands_own_options_first_and_none_that_mean_nothing(
    command: str, own: list[str], common: list[str]
) -> None:
    shown = run_here(command, "--help").text
    first, _heading, second = shown.partition("Common options:\n")
    assert OPTION.findall(first) == own
    assert "\n  STORE\n" not in shown
    assert OPTION.findall(second) == common


def test_options_that_mean_nothing_are_accepted_all_the_same(image: Image) -> None:
    common = ("--external", "x=y", "--atomic-write", "512", "--force")
    assert run_here("check", image.path, *common).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["info", "IMAGE"], id="a description"),
        pytest.param(["list", "IMAGE", "--json"], id="a list as JSON"),
        pytest.param(["read", "IMAGE", "beta"], id="bytes"),
        pytest.param(["check", "IMAGE"], id="a status that is no failure"),
        pytest.param(["show", "IMAGE", "nobody"], id="a failure"),
        pytest.param(["show", "IMAGE", "nobody", "--json"], id="a failure as JSON"),
        pytest.param(["show", "--nonsense"], id="a usage error"),
    ],
)
def test_a_process_of_its_own_answers_as_the_other_tests_see_it(
    image: Image, arguments: list[str]
) -> None:
    words = [str(image.path) if word == "IMAGE" else word for word in arguments]
    assert run_process(*words) == run(*words)


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-P", "-m", "blobstore", "--version"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == run_process("--version").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["fly"], id="unknown command"),
        pytest.param(["info"], id="no store"),
        pytest.param(["info", "disk.img", "more"], id="too many arguments"),
        pytest.param(["info", "disk.img", "--long"], id="unknown option"),
        pytest.param(["show", "disk.img", ""], id="no id and no name"),
        pytest.param(["create", "disk.img"], id="no size"),
        pytest.param(["create", "disk.img", "--size", "12X"], id="no such unit"),
        pytest.param(["info", "disk.img", "--atomic-write", "1024"], id="no such atomic write"),
        pytest.param(["info", "disk.img", "--external", "id"], id="an external without a path"),
        pytest.param(["info", "disk.img", "--external", "hex:0=x"], id="an id with half a byte"),
        pytest.param(["zero", "disk.img", "1"], id="no length"),
        pytest.param(["set-parent", "disk.img", "1"], id="no parent"),
        pytest.param(
            ["set-parent", "disk.img", "1", "2", "--external-snapshot", "x"], id="two parents"
        ),
        pytest.param(["completion", "tcsh"], id="a shell without completion"),
    ],
)
def test_a_usage_error_ends_with_status_2(arguments: list[str]) -> None:
    done = run_here(*arguments)
    assert (done.status, done.stdout) == (2, b"")
    assert "Usage: blobstore" in done.stderr


def test_a_usage_error_is_json_when_json_was_asked_for() -> None:
    done = run("create", "disk.img", "--size", "12X", "--json")
    assert done.status == 2
    assert done.error["errno"] == "EINVAL"
    assert "'12X'" in done.error["message"]


def test_an_argument_called_json_behind_two_dashes_is_not_the_option(image: Image) -> None:
    done = run("xattr", "get", image.path, str(image.thin), "--", "--json")
    assert done.status == 1
    assert done.stderr == f"{image.path}: blob {image.thin:#x}: no xattr '--json'\n"


def test_a_failure_is_one_line_what_and_why_and_status_1(tmp_path: Path) -> None:
    done = run("info", tmp_path / "missing.img")
    assert (done.status, done.stdout) == (1, b"")
    assert done.stderr == f"{tmp_path}/missing.img: no such file or directory\n"


def test_a_failure_names_its_errno_in_json(tmp_path: Path) -> None:
    done = run("info", tmp_path / "missing.img", "--json")
    assert done.status == 1
    assert done.error == {
        "errno": "ENOENT",
        "message": f"{tmp_path}/missing.img: no such file or directory",
    }


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"text" * 10000)
    assert run("info", path, "--json").error["errno"] == "EILSEQ"


def test_an_unknown_kind_of_address_is_refused() -> None:
    assert run("info", "tape:1", "--json").error["errno"] == "ENOTSUP"


def test_a_store_that_somebody_writes_is_busy(image: Image) -> None:
    with blobstore.Blobstore.open(image.path):
        assert run("info", image.path, "--json").error["errno"] == "EBUSY"


def test_a_path_cannot_disturb_the_terminal(tmp_path: Path) -> None:
    name = str(tmp_path).encode() + b"/\x1b[31m\n\xff"
    done = run("info", name)
    assert done.stderr == f"{tmp_path}/\\x1b[31m\\n\\xff: no such file or directory\n"


def test_the_systems_own_errors_are_reported_like_all_others(image: Image) -> None:
    done = run("xattr", "set", image.path, str(image.thin), "key", "@/no/such/file", "--json")
    assert done.status == 1
    assert done.error == {"errno": "ENOENT", "message": "/no/such/file: No such file or directory"}


def test_a_full_standard_output_is_a_failure(image: Image) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "blobstore", "read", image.path, str(image.thin)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"No space left on device\n"
