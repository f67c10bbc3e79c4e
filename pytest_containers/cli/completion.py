"""Completion scripts for bash, zsh and fish, written from the parser of the command line.

The scripts are static: a shell that completes a word starts no Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PROGRAM = "pytest-containers"
_FILES = ("PATH", "FILE", "DIR", "CONTEXT")
_EOL = "\n"


def subcommands(
    parser: argparse.ArgumentParser, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser, str]]:
    """Iterate over the commands of a parser, those of commands included.

    Yields:
        The words that name the command, its parser, and its line in the list of commands.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            aliased: dict[int, str] = {}
            for name, command in action.choices.items():
                summary = aliased.setdefault(id(command), helps.get(name, ""))
                yield (*names, name), command, summary
                yield from subcommands(command, (*names, name))


@dataclass(frozen=True, slots=True)
class _Option:
    """An option: its spellings, one line of help, and the values that it takes.

    `values` is None if the option takes none; an empty sequence means any value.
    """

    spellings: Sequence[str]
    help: str
    values: Sequence[str] | None
    files: bool


@dataclass(frozen=True, slots=True)
class _Command:
    """A command.

    Attributes:
        names: The words that name it.
        children: The commands below it, with a line of help each.
        rest: True if it is followed by the command line of a program.
    """

    names: tuple[str, ...]
    options: Sequence[_Option]
    children: Mapping[str, str]
    arguments: Sequence[_Option]
    rest: bool


def _commands(parser: argparse.ArgumentParser) -> list[_Command]:
    below = list(subcommands(parser))
    summaries = {names: summary for names, _, summary in below}
    commands = [_command((), parser, summaries)]
    return commands + [_command(names, command, summaries) for names, command, _ in below]


def _command(
    names: tuple[str, ...],
    parser: argparse.ArgumentParser,
    summaries: Mapping[tuple[str, ...], str],
) -> _Command:
    options: list[_Option] = []
    arguments: list[_Option] = []
    children: dict[str, str] = {}
    rest = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = {name: summaries[*names, name] for name in action.choices}
        elif action.nargs == argparse.REMAINDER:
            rest = True
        else:
            (options if action.option_strings else arguments).append(_option(action))
    return _Command(names, options, children, arguments, rest)


def _option(action: argparse.Action) -> _Option:
    metavar = str(action.metavar or action.dest).upper()
    takes_value = action.nargs != 0
    values = [str(choice) for choice in action.choices or ()]
    return _Option(
        action.option_strings,
        " ".join((action.help or "").split()),
        values if takes_value else None,
        takes_value and metavar in _FILES,
    )


# ------------------------------------------------------------------------ bash


def _bash(parser: argparse.ArgumentParser) -> str:
    commands = _commands(parser)
    paths = "|".join(f"'{'/'.join(('', *command.names))}'" for command in commands[1:])
    cases = "".join(map(_bash_case, commands))
    return f"""\
# Completion of {PROGRAM} for bash: eval "$({PROGRAM} completion bash)"
_pytest_containers() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
    local path='' options='' valued='' choices='' files='' arguments='' rest='' word i count=0
    # bash splits --option=value at the sign.
    if [[ $current == = ]]; then
        current=''
    elif [[ $previous == = ]]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path/${{COMP_WORDS[i]}}" in
        {paths}) path=$path/${{COMP_WORDS[i]}} ;;
        esac
    done
    case "$path" in
{cases}    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $valued == *" $word "* ]]; then
            [[ ${{COMP_WORDS[i + 1]}} == = ]] && ((i++))
            ((i++))
        elif [[ $word != -* && "$path/" != */"$word"/* ]]; then
            ((count++))
        fi
    done
    if [[ $rest && $count -gt 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
    elif [[ $choices == *" $previous="* ]]; then
        word=${{choices#*" $previous="}}
        word=${{word%% *}}
        mapfile -t COMPREPLY < <(compgen -W "${{word//,/ }}" -- "$current")
    elif [[ $files == *" $previous "* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
    elif [[ $valued == *" $previous "* ]]; then
        COMPREPLY=()
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $arguments == files ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
    else
        mapfile -t COMPREPLY < <(compgen -W "$arguments" -- "$current")
    fi
}}
complete -F _pytest_containers {PROGRAM}
"""


def _bash_case(command: _Command) -> str:
    """Return the branch that sets what may stand behind a command."""
    valued = [option for option in command.options if option.values is not None]
    chosen = [option for option in valued if option.values]
    fields = {
        "options": _spelled(command.options),
        "valued": f" {_spelled(valued)} " if valued else "",
        "choices": "".join(
            f" {name}={','.join(option.values or ())}"
            for option in chosen
            for name in option.spellings
        ),
        "files": f" {_spelled(option for option in valued if option.files)} ",
        "arguments": _argument_words(command),
        "rest": "yes" if command.rest else "",
    }
    lines = "".join(
        f"        {name}='{value}'\n" for name, value in fields.items() if value.strip()
    )
    return f"    '{'/'.join(('', *command.names)) if command.names else ''}')\n{lines}        ;;\n"


def _argument_words(command: _Command) -> str:
    """Return the words that may be the first argument, or ``files``."""
    if command.children:
        return " ".join(command.children)
    first = next(iter(command.arguments), None)
    if first is None:
        return ""
    return "files" if first.files else " ".join(first.values or ())


def _spelled(options: Sequence[_Option] | Iterator[_Option]) -> str:
    return " ".join(name for option in options for name in option.spellings)


# ------------------------------------------------------------------------- zsh


def _zsh(parser: argparse.ArgumentParser) -> str:
    commands = _commands(parser)
    functions = "\n".join(map(_zsh_function, commands))
    return f"""\
#compdef {PROGRAM}
# Completion of {PROGRAM} for zsh: source <({PROGRAM} completion zsh)
{functions}
if [[ $funcstack[1] == _pytest_containers ]]; then
    _pytest_containers "$@"
else
    compdef _pytest_containers {PROGRAM}
fi
"""


def _zsh_function(command: _Command) -> str:
    rows = [row for option in command.options for row in _zsh_options(option)]
    if command.children:
        rows += ["'1: :->command'", "'*:: :->rest'"]
    else:
        rows += [_zsh_argument(argument) for argument in command.arguments]
        rows += ["'*:file:_files'"] if command.rest else []
    specs = " \\\n        ".join(["-s", *rows])
    name = _function(command.names)
    body = f"    _arguments {specs}\n"
    if command.children:
        words = " ".join(
            _quoted(f"{child}:{summary}") for child, summary in command.children.items()
        )
        inner = "".join(
            f"        {child}) {_function((*command.names, child))} ;;\n"
            for child in command.children
        )
        body = f"""\
    local curcontext=$curcontext state line
    local -a commands=({words})
    _arguments -C {specs}
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
{inner}        esac
        ;;
    esac
"""
    return f"{name}() {{\n{body}}}\n"


def _zsh_options(option: _Option) -> Iterator[str]:
    for name in option.spellings:
        value = _zsh_value(option)
        sign = "" if option.values is None else "=" if name.startswith("--") else "+"
        yield _quoted(f"*{name}{sign}[{_zsh_escaped(option.help)}]{value}")


def _zsh_value(option: _Option) -> str:
    if option.values is None:
        return ""
    if option.files:
        return ":file:_files"
    return f":value:({' '.join(option.values)})" if option.values else ":value: "


def _zsh_argument(argument: _Option) -> str:
    if argument.values:
        return _quoted(f":argument:({' '.join(argument.values)})")
    return "'*:file:_files'" if argument.files else "':argument: '"


def _zsh_escaped(line: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", line)


def _function(names: Sequence[str]) -> str:
    return "_".join(["_pytest_containers", *names])


# ------------------------------------------------------------------------ fish


def _fish(parser: argparse.ArgumentParser) -> str:
    commands = _commands(parser)
    lines = [
        f"# Completion of {PROGRAM} for fish: {PROGRAM} completion fish | source",
        f"complete --command {PROGRAM} --no-files",
    ]
    for command in commands:
        lines += _fish_lines(command)
    return _EOL.join([*lines, ""])


def _fish_lines(command: _Command) -> Iterator[str]:
    here = _fish_condition(command)
    start = f"complete --command {PROGRAM} --condition {_quoted(here)}"
    for child, summary in command.children.items():
        yield f"{start} --arguments {child} --description {_quoted(summary)}"
    for option in command.options:
        words = [start]
        for name in option.spellings:
            kind = "--long-option" if name.startswith("--") else "--short-option"
            words.append(f"{kind} {name.lstrip('-')}")
        if option.values is not None:
            words.append("--require-parameter")
            words += [f"--arguments {_quoted(' '.join(option.values))}"] if option.values else []
            words += ["--force-files"] if option.files else []
        if option.help:
            words.append(f"--description {_quoted(option.help)}")
        yield " ".join(words)
    for argument in command.arguments:
        if argument.values:
            yield f"{start} --arguments {_quoted(' '.join(argument.values))}"
    if command.rest or any(argument.files for argument in command.arguments):
        yield f"{start} --force-files"


def _fish_condition(command: _Command) -> str:
    """Return the test whether the words before the cursor name this command, and none below."""
    if not command.names:
        return "__fish_use_subcommand"
    tests = [f"__fish_seen_subcommand_from {name}" for name in command.names]
    if command.children:
        tests.append(f"not __fish_seen_subcommand_from {' '.join(command.children)}")
    return "; and ".join(tests)


def _quoted(word: str) -> str:
    """Quote a word for all three shells."""
    return "'" + word.replace("'", "'\\''") + "'"


SHELLS: dict[str, Callable[[argparse.ArgumentParser], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
"""The writers of scripts, by shell."""
