"""Scripts with which bash, zsh and fish complete `promptmill` command lines: jobs, keys, presets.

They are made from the dataclasses and presets of this version, and start no process when they run.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable

from jobs.help.page import default_presets, presets
from jobs.options.arguments import FLAGS
from jobs.options.keys import keys

SHELLS = ("bash", "zsh", "fish")

_BASH = r"""# promptmill: completion for bash; in ~/.bashrc: eval "$(promptmill completion bash)"
_promptmill() {
    local line="${COMP_LINE:0:COMP_POINT}" words
    local word="${line##* }"
    case "$line" in
@CASES@
        *) words="@JOBS@" ;;
    esac
    if [[ "$word" == *.path=* || "$word" == *_file=* ]]; then
        COMPREPLY=($(compgen -P "${word%%=*}=" -f -- "${word#*=}"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    fi
    [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    return 0
}
complete -o nospace -o default -F _promptmill promptmill
"""
_ZSH = """#compdef promptmill
# promptmill: completion for zsh; in ~/.zshrc, after compinit: eval "$(promptmill completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str, jobs: Iterable[str], schemas: dict[str, type]) -> str:
    """Return the script for a shell of `SHELLS`.

    Args:
        shell: Which one.
        jobs: The words that may come first.
        schemas: Job → its configuration dataclass.
    """
    words = {job: candidates(job, schema) for job, schema in schemas.items()}
    if shell == "fish":
        return _fish(list(jobs), words)
    cases = "\n".join(f'        "promptmill {job} "*) words="{" ".join(found)}" ;;' for job, found in words.items())
    bash = _BASH.replace("@CASES@", cases).replace("@JOBS@", " ".join(jobs))
    return bash if shell == "bash" else _ZSH + bash.partition("\n")[2]


def candidates(job: str, schema: type) -> list[str]:
    """Return what may follow a job: presets, keys with `=` (boolean ones with true and false), and command-line flags."""
    found = [f"{group}={name}" for group in default_presets(job) for name in presets(group)]
    for key in keys(schema).values():
        kinds = typing.get_args(key.type) or (key.type,)
        found += [f"{key.name}={value}" for value in ("true", "false")] if bool in kinds else [f"{key.name}="]
    return found + [word for flag, _ in FLAGS for word in flag.replace(",", "").split() if word.startswith("--")]


def _fish(jobs: list[str], words: dict[str, list[str]]) -> str:
    lines = [
        "# promptmill: completion for fish; promptmill completion fish > ~/.config/fish/completions/promptmill.fish",
        "complete -c promptmill -f",
        f"complete -c promptmill -n __fish_use_subcommand -a '{' '.join(jobs)}'",
    ]
    for job, found in words.items():
        lines.append(f"complete -c promptmill -n '__fish_seen_subcommand_from {job}' -a '{' '.join(found)}'")
    return "\n".join(lines) + "\n"
