"""Whether a caller's values can be meant: each check answers with the value, or raises SpecError.

Pure, and strict about types: a wrong one is a mistake of the caller's, whatever it might do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jail.errors import SpecError

MiB: Final = 1024 * 1024
MAX_ENV_BYTES: Final = 1 * MiB
MAX_ARGV_BYTES: Final = 1 * MiB
MAX_STRING_BYTES: Final = 128 * 1024  # MAX_ARG_STRLEN, include/uapi/linux/binfmts.h
MAX_PATH_BYTES: Final = 4096  # PATH_MAX, with the NUL
MAX_NUMBER: Final = 2**63 - 1

COVERED_BY_NOBODY: Final = ("/proc", "/dev")
"""what the jail and its supervisor themselves rely on"""


def check_text(value: object, what: str) -> str:
    """Text that the kernel can be given: no NUL, and nothing that has no bytes."""
    if not isinstance(value, str):
        raise SpecError(f"{what}: {show(value)} is no text")
    if "\0" in value:
        raise SpecError(f"{what}: {show(value)} holds a NUL byte")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise SpecError(f"{what}: {show(value)} can't be encoded") from None
    return value


def check_string(value: object, what: str) -> int:
    """Its size in bytes, with the NUL that ends it."""
    size = len(os.fsencode(check_text(value, what))) + 1
    if size > MAX_STRING_BYTES:
        raise SpecError(f"{what}: {size} bytes in one string; the kernel takes {MAX_STRING_BYTES}")
    return size


def check_host_path(value: Any, what: str) -> str:
    """Text or a path object, not empty."""
    try:
        path = check_text(os.fsdecode(value), what)
    except TypeError:
        raise SpecError(f"{what}: {show(value)} is no path") from None
    if not path:
        raise SpecError(f"{what}: a path is missing")
    return path


def check_inside_path(value: object, what: str) -> str:
    """An absolute path inside, without ``..``; made plain."""
    path = check_text(value, what)
    if not path.startswith("/"):
        raise SpecError(f"{what}: {show(path)} inside the jail must begin with /")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError(f"{what}: {show(path)} must not contain ..")
    return check_path_length("/" + "/".join(parts), what)


def check_mount_point(value: object, what: str) -> str:
    """As ``check_inside_path``, and something that may be covered."""
    path = check_inside_path(value, what)
    if path == "/":
        raise SpecError(f"{what}: / itself can't be covered; use rootfs")
    if path in COVERED_BY_NOBODY or path.startswith("/proc/"):
        raise SpecError(f"{what}: {show(path)} is the jail's own and can't be covered")
    return path


def check_path_length(path: str, what: str) -> str:
    size = len(os.fsencode(path)) + 1
    if size > MAX_PATH_BYTES:
        raise SpecError(f"{what}: a path of {size} bytes; the kernel takes {MAX_PATH_BYTES}")
    return path


def check_hostname(value: object) -> str:
    name = check_text(value, "hostname")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", name, re.ASCII):
        raise SpecError(f"hostname: {show(name)} must be 1 to 64 letters, digits, dots and hyphens")
    return name


def check_choice(value: Any, choices: tuple[str, ...], what: str) -> Any:
    if value not in choices:
        raise SpecError(f"{what}: {show(value)} is none of {', '.join(choices)}")
    return value


def check_bool(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"{what}: {show(value)} is neither True nor False")
    return value


def check_number(value: object, what: str, kind: type | tuple[type, ...] = int) -> None:
    """More than 0 and finite; None is unlimited."""
    if value is None:
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SpecError(f"{what}: {show(value)} is no number")
    if not 0 < value <= MAX_NUMBER:  # type: ignore[operator]  # kind is a number's, see above
        raise SpecError(f"{what}: {show(value)} must be more than 0, and a number kernels know")


def check_list(value: Any, what: str) -> list[Any]:
    """The members of a list, tuple, …; one text alone is a mistake, not a list of letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError(f"{what}: {show(value)} must be a list")
    return list(value)


def check_texts(value: Any, what: str) -> dict[str, str]:
    """A plain copy of a mapping of texts to texts."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{what}: {show(value)} must be a mapping")
    return {check_text(k, what): check_text(v, f"{what} {show(k)}") for k, v in value.items()}


def check_env(env: Any) -> dict[str, str]:
    """A plain copy, or SpecError: names without ``=``, no NUL, at most 1 MiB together."""
    if not isinstance(env, Mapping):
        raise SpecError(f"env: {show(env)} must be a mapping")
    total = 0
    for key, value in env.items():
        if not check_text(key, "env") or "=" in key:
            raise SpecError(f"env: {show(key)} can't be a name")
        name = f"env {show(key)}"
        total += check_string(f"{key}={check_text(value, name)}", name)
    if total > MAX_ENV_BYTES:
        raise SpecError(f"env: {total} bytes are more than the {MAX_ENV_BYTES} a program may get")
    return dict(env)


def check_argv(argv: Any) -> tuple[str, ...]:
    """The arguments as text, or SpecError: at least one, no NUL, at most 1 MiB together."""
    if isinstance(argv, str | bytes | os.PathLike) or not isinstance(argv, Iterable):
        raise SpecError('the program is a list of arguments, such as ["echo", "hello"]')
    try:
        words = tuple(os.fsdecode(word) for word in argv)
    except TypeError as error:
        raise SpecError(f"argument: {error}") from None
    if not words or not words[0]:
        raise SpecError("no program given")
    total = sum(check_string(word, "argument") for word in words)
    if total > MAX_ARGV_BYTES:
        raise SpecError(f"arguments: {total} bytes are more than the {MAX_ARGV_BYTES} allowed")
    return words


def show(value: object) -> str:
    """For a message: one line, and not a long one."""
    try:
        text = repr(value)
    except ValueError:  # an integer too long to be printed: sys.set_int_max_str_digits
        return "a number of astronomical size"
    return text if len(text) <= 80 else f"{text[:60]}…{text[-10:]}"
