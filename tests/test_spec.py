"""What is asked for: docker's words and units, and one clear line for every typo."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jail import JailSpec, Limits, SpecError, Tmpfs, Volume, make_spec
from jail.check import MAX_ENV_BYTES, check_argv, check_env
from jail.limit import parse_ulimit
from jail.network.check import NETWORKS
from jail.program import make_program
from jail.spec import parse_env, parse_tmpfs, parse_volume
from jail.units import format_size, parse_count, parse_size, parse_time

KiB, MiB, GiB = 1024, 1024**2, 1024**3

# -- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("4096", 4096), ("1k", KiB), ("1K", KiB), ("256m", 256 * MiB),
        ("1.5g", 1536 * MiB),
        ("1kb", KiB), ("1KiB", KiB), ("2 m", 2 * MiB), (" 3m ", 3 * MiB), ("1t", 1024 * GiB),
        ("0.5k", 512), ("10b", 10), (4096, 4096), (1536.0, 1536),
    ],
)  # fmt: skip
def test_sizes_are_docker_s(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("1.5s", 1.5), ("200ms", 0.2), ("2m", 120), ("1h", 3600), (0.25, 0.25), (3, 3)],
)
def test_times_are_in_seconds(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


WRONG_NUMBERS: list[Any] = [
    "", " ", "0", "00", "-1", "+1", "12q", "1e3", "0x10", "1_000", "1,5", "1..5", ".5", "5.", "m",
    "1mm", "1 2", "\u0661", "１２", "inf", "nan", "9" * 400, "9" * 5000, 10**400, 10**5000, -5, 0,
    float("nan"), float("inf"), -1.0, True, False, None, b"1", [], ["1"], {}, object(),
    "1\0", "1\n2",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=lambda each: str(type(each)))
@pytest.mark.parametrize("parse", [parse_size, parse_time, parse_count])
def test_no_other_number_is_taken_for_one(parse: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(SpecError) as caught:
        parse(wrong, "memory")
    assert_clear(caught.value, "memory")


def test_a_number_too_long_to_be_printed_is_no_number_of_processors() -> None:
    with pytest.raises(SpecError, match="cpus: a number of astronomical size"):
        make_spec(cpus=10**5000)


def test_a_size_above_all_kernels_is_refused() -> None:
    assert parse_size(2**63 - 1) == 2**63 - 1
    for text in ("8192p", "99999999999999999999", 2**63):
        with pytest.raises(SpecError, match="more than"):
            parse_size(text)


def test_sizes_are_shown_with_a_unit() -> None:
    shown = [format_size(n) for n in (0, 1023, 1024, 256 * MiB, 3 * GiB, 5 * 1024 * GiB)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "256.0 MiB", "3.0 GiB", "5.0 TiB"]


def assert_clear(error: SpecError, what: str = "") -> None:
    """One line, not a long one, that names what was wrong."""
    text = str(error)
    assert what in text
    assert text.isprintable(), text
    assert 0 < len(text) <= 400, text


# -- words ----------------------------------------------------------------------------------------


def test_volumes_and_tmpfs_are_docker_s() -> None:
    assert parse_volume("/a:/b") == Volume("/a", "/b", read_only=False)
    assert parse_volume("a/b:/c/./d//e/:ro") == Volume("a/b", "/c/d/e", read_only=True)
    assert parse_volume("/a:/b:rw") == Volume("/a", "/b", read_only=False)
    assert parse_tmpfs("/t") == Tmpfs("/t", None)
    assert parse_tmpfs("/t:64m") == parse_tmpfs("/t:size=64m") == Tmpfs("/t", 64 * MiB)


def test_a_volume_made_by_hand_is_held_to_the_same() -> None:
    assert Volume("/a", "/b//c/").target == "/b/c"
    for wrong in (("", "/b"), ("/a", "b"), ("/a", "/../b"), ("/a", "/"), ("/a\0", "/b")):
        with pytest.raises(SpecError):
            Volume(*wrong)
    with pytest.raises(SpecError):
        Tmpfs("/t", 0)
    with pytest.raises(SpecError):
        Volume("/a", "/b", read_only="ro")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("nofile=64", ("nofile", 64, 64)),
        ("nofile=64:128", ("nofile", 64, 128)),
        ("core=0", ("core", 0, 0)),
        ("nproc=-1", ("nproc", -1, -1)),
        ("stack=8m:unlimited", ("stack", 8 * MiB, -1)),
    ],
)
def test_ulimits_are_docker_s(text: str, bounds: tuple[str, int, int]) -> None:
    assert parse_ulimit(text) == bounds
    assert make_spec(ulimits=[text]).limits.ulimits == (bounds,)


def test_ulimits_may_be_a_mapping() -> None:
    limits = make_spec(ulimits={"nofile": 64, "fsize": "1m:2m"}).limits
    assert limits.ulimits == (("nofile", 64, 64), ("fsize", MiB, 2 * MiB))


def test_limits_are_given_in_people_s_words() -> None:
    limits = make_spec(
        memory="64m", cpu_time="1.5s", wall_time=3, pids_limit=9, output_limit="1k", disk=None
    ).limits
    assert limits == Limits(
        memory_bytes=64 * MiB,
        cpu_time_s=1.5,
        wall_time_s=3.0,
        pids=9,
        output_bytes=KiB,
        disk_bytes=None,
    )
    for word in ("unlimited", "none", "-1", None):
        assert make_spec(memory=word).limits.memory_bytes is None


def test_a_limit_changes_only_itself() -> None:
    base = Limits(memory_bytes=MiB, pids=3)
    changed = make_spec(limits=base, memory="2m").limits
    assert (changed.memory_bytes, changed.pids) == (2 * MiB, 3)


def test_the_rest_is_taken_as_it_is() -> None:
    spec = make_spec(
        rootfs=Path("/srv/root"), env={"A": "1=2", "B": ""}, workdir="/a/./b/", user=0,
        hostname="a-1.b", read_only=True, network="host", userns="single", seccomp="unconfined",
        require={"memory": "watch"}, volumes=("/x:/y",), tmpfs=("/z",),
    )  # fmt: skip
    assert (spec.rootfs, spec.workdir, spec.user, spec.hostname) == (
        "/srv/root", "/a/b", "0", "a-1.b",
    )  # fmt: skip
    assert (spec.env, spec.require) == ({"A": "1=2", "B": ""}, {"memory": "watch"})


def test_the_caller_s_own_mappings_may_change_afterwards() -> None:
    env = {"A": "1"}
    spec = make_spec(env=env)
    env["A\0"] = "2"
    assert spec.env == {"A": "1"}


def test_env_is_a_pair() -> None:
    assert parse_env("A=b=c") == ("A", "b=c")
    with pytest.raises(SpecError, match="never taken"):
        parse_env("HOME")


# -- typos ----------------------------------------------------------------------------------------

TYPOS: list[dict[str, Any]] = [
    {"memroy": "1m"}, {"Memory": "1m"}, {"cpu": 1}, {"timeout": 1}, {"ulimit": {}},
    {"memory": "12q"}, {"memory": 0}, {"memory": "0"}, {"wall_time": "1 day"}, {"pids_limit": 1.5},
    {"pids_limit": "many"}, {"output_limit": -5}, {"disk": ""}, {"cpu_time": "-1s"},
    {"network": "hots"}, {"network": "None"}, {"network": ""}, {"network": True},
    {"userns": "sinlge"}, {"userns": ["auto"]}, {"read_only": "no"}, {"read_only": 1},
    {"volumes": "/a:/b"}, {"volumes": ["/a"]}, {"volumes": ["/a:/b:r"]}, {"volumes": [":/b"]},
    {"volumes": ["/a:b"]}, {"volumes": ["/a:/b:ro:z"]}, {"volumes": ["/a:/x/../../b"]},
    {"volumes": ["/a:/"]}, {"volumes": ["/a\0:/b"]}, {"volumes": [5]}, {"volumes": 5},
    {"volumes": ["/a:/b", "/c:/b/"]}, {"volumes": ["/a:/b"], "tmpfs": ["/b"]},
    {"volumes": ["/a:/proc"]}, {"volumes": ["/a:/proc/sys"]}, {"volumes": ["/a:/dev"]},
    {"volumes": [Tmpfs("/t")]}, {"tmpfs": [Volume("/a", "/b")]},
    {"tmpfs": ["t"]}, {"tmpfs": ["/t:"]}, {"tmpfs": ["/t:0"]}, {"tmpfs": ["/t:1q"]},
    {"tmpfs": "/t"}, {"tmpfs": ["/proc"]}, {"tmpfs": [None]},
    {"env": ["A=1"]}, {"env": {"": "1"}}, {"env": {"A=B": "1"}}, {"env": {"A": 1}},
    {"env": {1: "A"}},
    {"env": {"A": "\0"}}, {"env": {"A\0": ""}}, {"env": {"A": "\ud800"}}, {"env": {"A": b"1"}},
    {"workdir": "work"}, {"workdir": "/a/.."}, {"workdir": ""}, {"workdir": "/\0"}, {"workdir": 5},
    {"workdir": "/" + "a/" * 4000}, {"workdir": Path("/work")},
    {"hostname": ""}, {"hostname": "a b"}, {"hostname": "-a"}, {"hostname": "a\n"},
    {"hostname": "a" * 65}, {"hostname": "ä"}, {"hostname": 5}, {"hostname": None},
    {"rootfs": ""}, {"rootfs": "/a\0"}, {"rootfs": None}, {"rootfs": 5}, {"rootfs": "\ud800"},
    {"seccomp": ""}, {"seccomp": None}, {"seccomp": "\0"},
    {"user": True}, {"user": -1}, {"user": 1.5}, {"user": b"root"}, {"user": "a\0"},
    {"require": ["memory"]}, {"require": {"memory": 1}}, {"require": "memory=cgroup"},
    {"limits": {}}, {"limits": "none"}, {"limits": 5},
    {"ulimits": None}, {"ulimits": "nofile=5"}, {"ulimits": ["nofile"]}, {"ulimits": ["nofiles=5"]},
    {"ulimits": ["nofile=-5"]}, {"ulimits": ["nofile=9:5"]}, {"ulimits": ["nofile=unlimited:5"]},
    {"ulimits": ["nofile=5:6:7"]}, {"ulimits": ["nofile="]}, {"ulimits": {"nofile": None}},
    {"ulimits": {"nofile": 1.5}}, {"ulimits": {"nofile=5": 6}}, {"ulimits": [5]},
    {"ulimits": ["cpu=5"]}, {"ulimits": {"fsize": "5q"}},
]  # fmt: skip


@pytest.mark.parametrize("options", TYPOS, ids=lambda each: str(each)[:60])
def test_a_typo_is_one_clear_line(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(**options)
    assert_clear(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"network": "None"}, {"network": None}, {"network": "bridge"}, {"userns": ""},
        {"read_only": "false"},
        {"workdir": "/a/../.."}, {"hostname": "a b"}, {"limits": None}, {"env": {"A": 1}},
        {"volumes": ("/a:/b",)}, {"volumes": (Volume("/a", "/b"), Volume("/c", "/b"))},
        {"require": {"memory": None}}, {"rootfs": ""}, {"seccomp": ""}, {"user": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_spec_made_by_hand_is_held_to_the_same(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        JailSpec(**options)
    assert_clear(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"memory_bytes": 0}, {"memory_bytes": "64m"}, {"memory_bytes": 1.5}, {"pids": True},
        {"pids": -1}, {"disk_bytes": 2**63}, {"wall_time_s": 0}, {"cpu_time_s": float("inf")},
        {"cpu_time_s": float("nan")}, {"ulimits": (("nofile", 1),)}, {"ulimits": (("x", 1, 1),)},
        {"ulimits": (("nofile", "1", "1"),)}, {"output_bytes": 0}, {"ulimits": 5},
        {"cpuset_cpus": 5}, {"cpuset_cpus": [0, 1]}, {"throttles": 5}, {"throttles": ("x",)},
    ],
    ids=str,
)  # fmt: skip
def test_a_limit_of_nothing_is_not_no_limit(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        Limits(**options)
    assert_clear(caught.value)


text = st.one_of(
    st.text(),
    st.text(st.characters(codec=None, exclude_categories=())),
    st.text("/:.=-0123456789kmrow\0\n", max_size=12),
    st.sampled_from(["/a:/b", "/a:/b:ro", "nofile=1", "/t:1m", "host", "default", "auto", "12q"]),
)
anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(10**4000, 10**5000),
        st.floats(),
        text,
        st.binary(),
        st.builds(Path, st.just("/x")),
        st.just(object()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(text, st.integers()), inner, max_size=3),
    ),
    max_leaves=4,
)
words = st.sampled_from(
    [
        "rootfs", "volumes", "tmpfs", "env", "workdir", "user", "hostname", "read_only", "network",
        "seccomp", "userns", "require", "limits", "memory", "cpu_time", "wall_time", "pids_limit",
        "output_limit", "disk", "ulimits", "anything", "allow", "deny", "observe",
        "add_host", "dns", "publish",
    ]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(words, anything, max_size=3))
def test_whatever_is_asked_the_answer_is_a_spec_or_a_spec_error(options: dict[str, Any]) -> None:
    try:
        spec = make_spec(**options)
    except SpecError as error:
        assert_clear(error)
        return
    assert isinstance(spec, JailSpec)
    assert spec.network in NETWORKS
    assert spec.workdir.startswith("/")
    for target in [v.target for v in spec.volumes] + [t.target for t in spec.tmpfs]:
        assert target.startswith("/")
        assert ".." not in target.split("/")


@settings(max_examples=300, deadline=None)
@given(anything, anything, anything, anything)
def test_whatever_a_program_is_called_the_answer_is_a_spec_error(
    argv: Any, env: Any, cwd: Any, limit: Any
) -> None:
    try:
        program = make_program(argv, env, cwd, limit, limit, limit)
    except SpecError as error:
        assert_clear(error)
        return
    assert program.argv
    assert all("\0" not in word for word in program.argv)


# -- programs -------------------------------------------------------------------------------------


def test_arguments_are_a_list_of_texts_or_paths() -> None:
    assert check_argv(["a", b"b", Path("c")]) == ("a", "b", "c")
    assert check_argv(iter(["a", ""])) == ("a", "")
    for wrong in ("ls -l", b"ls", [], [""], ["a\0b"], [5], 5, None, Path("/bin/ls"), ["\ud800"]):
        with pytest.raises(SpecError) as caught:
            check_argv(wrong)
        assert_clear(caught.value)


def test_an_environment_of_ten_megabytes_is_refused_however_it_is_cut() -> None:
    for env in ({"A": "x" * 10 * MiB}, {f"V{n}": "x" * 1000 for n in range(10_000)}):
        with pytest.raises(SpecError, match="env") as caught:
            check_env(env)
        assert_clear(caught.value)
    room = {f"V{n:04}": "x" * (1024 - 7) for n in range(MAX_ENV_BYTES // 1024)}
    assert check_env(room) == room
    with pytest.raises(SpecError):
        check_env({**room, "W": ""})


def test_the_resource_names_are_this_host_s() -> None:
    for name, *_ in map(parse_ulimit, ("nofile=1", "as=1", "stack=1", "msgqueue=1")):
        assert hasattr(resource, f"RLIMIT_{name.upper()}")
