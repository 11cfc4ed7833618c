"""Completion in bash, also of names with ``@`` and ``:``, as snapshots often have.

bash cuts a line at such characters, too, and replaces only the last piece. click sees the
pieces and takes them for words. So the line is given as it is, and of each answer only
what follows the pieces that stay.
"""

import os
from typing import Any, ClassVar

from click import shell_completion
from click.shell_completion import CompletionItem, split_arg_string

_SOURCE = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response

    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_PIECE="$2" \\
        %(complete_var)s=bash_complete "$1")

    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
        fi
    done

    return 0
}

%(complete_func)s_setup() {
    complete -o nosort -F %(complete_func)s %(prog_name)s
}

%(complete_func)s_setup;
"""


class BashComplete(shell_completion.BashComplete):
    """Completes the last word of the line up to the cursor."""

    source_template: ClassVar[str] = _SOURCE
    _kept = ""
    """What of the last word bash leaves as it is."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the last one, and that one."""
        line, piece = os.environ["COMP_LINE"], os.environ["COMP_PIECE"]
        words = split_arg_string(line)
        last = words.pop() if words and not line[-1:].isspace() else ""
        self._kept = last.removesuffix(piece)
        return words[1:], last

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Write one answer."""
        value: str = item.value
        return f"{item.type},{value.removeprefix(self._kept)}"
