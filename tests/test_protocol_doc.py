"""docs/protocol.md says what the code says: its tables are made from the messages themselves.

``python -m tests.test_protocol_doc`` writes the document anew.
"""

from __future__ import annotations

import ast
import inspect
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from jail import launcher
from jail.agent import server as agent
from jail.agent import wire
from jail.zygote import init, link
from jail.zygote import server as zygote

pytestmark = pytest.mark.beside

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs/protocol.md"
COMMAND: Final = "python -m tests.test_protocol_doc"


def make_tables() -> dict[str, str]:
    """Per mark in the document, what stands below it."""
    return {
        "requests to the agent": make_table(wire.REQUESTS, lambda kind: wire.FDS.get(kind, 0)),
        "facts from the agent": make_table(wire.FACTS, lambda kind: wire.FDS.get(kind, 0)),
        "numbers of the agent's protocol": make_numbers(),
        "requests to the zygote": make_table(link.REQUESTS, lambda kind: link.FDS.get(kind, 0)),
        "facts from the zygote": make_table(link.FACTS, lambda kind: link.FDS.get(kind, 0)),
        "handover": make_table({"Session": link.Session}, lambda kind: link.FDS.get(kind, 0)),
    }


def make_table(kinds: dict[str, Any], count_fds: Any) -> str:
    lines = ["| message | fields | fds | meaning |", "|---|---|---|---|"]
    for name, kind in kinds.items():
        fields = "<br>".join(f"`{field}: {type_}`" for field, type_ in read_fields(kind).items())
        meaning = " ".join((inspect.getdoc(kind) or "").split()).replace("|", "\\|")
        text = re.sub(r"``(.+?)``|:\w+:`(.+?)`", r"`\1\2`", meaning)
        lines.append(f"| `{name}` | {fields or '–'} | {count_fds(kind)} | {text} |")
    return "\n".join(lines)


def read_fields(kind: Any) -> dict[str, str]:
    types = {name: kind.__annotations__[name] for name in kind._fields}
    return {name: getattr(each, "__forward_arg__", each) for name, each in types.items()}


def make_numbers() -> str:
    numbers = {
        "PROTOCOL_VERSION": "in `Setup` and `Ready`; another one ends the conversation",
        "MAX_FRAME_BYTES": "of a frame's body; a longer one is refused by its header",
        "MAX_FDS": "that may wait for the frames they came with",
        "RECEIVE_BYTES": "asked for in one `recvmsg`",
    }
    rows = [f"| `{name}` | {getattr(wire, name)} | {text} |" for name, text in numbers.items()]
    return "\n".join(["| name | value | |", "|---|---|---|", *rows])


def write_document(text: str) -> str:
    """The text with everything between ``<!-- X -->`` and ``<!-- end -->`` made anew."""
    for mark, table in make_tables().items():
        head, end = f"<!-- {mark} -->\n", "\n<!-- end -->"
        pattern = rf"{re.escape(head)}.*?{re.escape(end.lstrip())}"
        found = re.findall(pattern, text, flags=re.DOTALL)
        assert len(found) == 1, f"{DOCUMENT}: {len(found)} places marked {head}"
        text = text.replace(found[0], head + table + end)
    return text


# -- the document ---------------------------------------------------------------------------------


def test_the_document_is_what_the_code_says() -> None:
    text = DOCUMENT.read_text()
    assert text == write_document(text), f"out of date; run: {COMMAND}"


def test_the_document_says_how_it_is_made() -> None:
    assert COMMAND in DOCUMENT.read_text()


@pytest.mark.parametrize("kind", [*wire.REQUESTS.values(), *wire.FACTS.values()])
def test_every_message_of_the_agent_has_a_meaning(kind: Any) -> None:
    text = inspect.getdoc(kind) or ""
    assert not text.startswith(f"{kind.__name__}("), "namedtuple's own words"
    assert wire.FDS.get(kind, 0) == 0 or re.search(r"\bfds?\b", text), (
        "it doesn't say what descriptors"
    )


# -- the code keeps to the tables -----------------------------------------------------------------


def find_sent(module: Any, home: str) -> Iterator[tuple[str, int]]:
    """Names of messages that a module makes, with the line: ``wire.Done(…)``."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == home and node.func.attr[0].isupper():
                yield node.func.attr, node.lineno


def names(found: Iterable[tuple[str, int]]) -> set[str]:
    return {name for name, _ in found if name not in ("FrameBuffer", "WireError")}


def test_the_agent_says_facts_and_init_the_first_two() -> None:
    said = names(find_sent(agent, "wire")) | names(find_sent(init, "wire"))
    assert said - {"Exec"} == set(wire.FACTS), "Exec is what it rehearses with"


def test_the_agent_serves_every_request_but_the_first() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        served = agent.Server(ours)._handlers
    assert {kind.__name__ for kind in served} == set(wire.REQUESTS) - {"Setup"}


def test_the_zygote_serves_every_request_and_says_every_fact() -> None:
    handlers: dict[str, Any] = {
        "Clone": zygote.Zygote._clone,
        "Unshare": zygote.Zygote._unshare,
        "UseCgroup": zygote.Zygote._use_cgroup,
        "Abandon": zygote.Zygote._abandon,
    }
    assert set(handlers) == set(link.REQUESTS)
    for name, handler in handlers.items():
        parameters = list(inspect.signature(handler).parameters)
        assert len(parameters) == len(link.REQUESTS[name]._fields) + 2, "self, …, fds"
    assert names(find_sent(zygote, "link")) == {*link.FACTS, "Session"}


def test_the_launcher_says_every_request_to_the_zygote() -> None:
    assert names(find_sent(launcher, "link")) == set(link.REQUESTS)


if __name__ == "__main__":
    DOCUMENT.write_text(write_document(DOCUMENT.read_text()))
