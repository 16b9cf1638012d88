"""make_plan over imaginary hosts: every mount, id, limit and namespace is decided in one place."""

from __future__ import annotations

import resource
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail import UNLIMITED, HostError, Limits, SpecError, make_spec
from jail.host import HostFacts, make_facts
from jail.kernel import mount, process
from jail.launchplan import (
    Bind,
    BindScratch,
    LaunchPlan,
    MakeLinks,
    Mount,
    MountDev,
    MountProc,
    Seal,
    Source,
    WriteFiles,
)
from jail.plan import DEVICES, Inputs, Plan, make_plan
from jail.policy.filters import Filters
from jail.source import HostTree, SourceFacts
from jail.subid import IdRange
from jail.user import HOST_GROUP, HOST_PASSWD

pytestmark = pytest.mark.beside

MiB = 1024 * 1024
FACTS = make_facts()
NO_SUBIDS = make_facts(subuids=(), subgids=())
EVERY_NAMESPACE = (
    process.CLONE_NEWUSER
    | process.CLONE_NEWNS
    | process.CLONE_NEWPID
    | process.CLONE_NEWNET
    | process.CLONE_NEWIPC
    | process.CLONE_NEWUTS
    | process.CLONE_NEWCGROUP
    | process.CLONE_NEWTIME
)
LOCKED = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


def see(path: str, *, uid: int = 0, is_dir: bool = True) -> SourceFacts:
    return SourceFacts(Source(path, 1, hash(path) % 2**31), is_dir, uid, uid)


HOST_TREE = HostTree((("bin", "usr/bin"), ("lib", "usr/lib")), (("usr", see("/usr")),))


def plan(
    facts: HostFacts = FACTS,
    *,
    rootfs: SourceFacts | None = None,
    dirs: frozenset[str] = frozenset(),
    seen: tuple[SourceFacts, ...] = (),
    passwd: str = HOST_PASSWD,
    refuses_tcp: bool = False,
    **options: Any,
) -> Plan:
    if rootfs is not None:
        options["rootfs"] = rootfs.source.path
    inputs = Inputs(
        host_tree=None if rootfs else HOST_TREE,
        rootfs=rootfs,
        rootfs_dirs=dirs,
        volumes=seen,
        devices=DEVICES,
        passwd=passwd,
        group=HOST_GROUP,
        filters=make_filters(options.get("seccomp") == "unconfined", refuses_tcp),
    )
    return make_plan(make_spec(**options), facts, inputs)


def make_filters(unconfined: bool, refuses_tcp: bool) -> Filters:
    program = b"" if unconfined else b"\x06\0\0\0\0\0\0\0"
    return Filters(program, refuses_tcp=refuses_tcp)


def find(made: Plan, kind: type) -> list[Any]:
    return [step for step in made.launch.steps if type(step) is kind]


def limits_of(made: Plan) -> dict[int, tuple[int, int]]:
    return {number: (soft, hard) for number, soft, hard in made.launch.rlimits}


# -- namespaces and ids ---------------------------------------------------------------------------


def test_every_namespace_is_new() -> None:
    assert plan().clone_flags == EVERY_NAMESPACE


def test_the_network_is_the_host_s_only_when_asked() -> None:
    asked = plan(network="host")
    assert asked.clone_flags == EVERY_NAMESPACE & ~process.CLONE_NEWNET
    assert any("network host" in note for note in asked.notes)
    assert (plan().enforced_by["network"], asked.enforced_by["network"]) == ("namespace", "none")


def test_a_kernel_without_time_namespaces_has_the_others() -> None:
    made = plan(make_facts(time_ns=False))
    assert made.clone_flags == EVERY_NAMESPACE & ~process.CLONE_NEWTIME


@pytest.mark.parametrize("kernel", [(5, 13, 19), (4, 19, 0), (3, 10, 0), (0, 0, 0)])
def test_a_kernel_too_old_is_refused_by_name(kernel: tuple[int, int, int]) -> None:
    with pytest.raises(HostError, match=r"5\.14") as caught:
        plan(make_facts(kernel=kernel, kernel_release=".".join(map(str, kernel))))
    assert caught.value.step == "kernel"


def test_the_oldest_kernel_that_will_do_will_do() -> None:
    assert plan(make_facts(kernel=(5, 14, 0))).ids == "subuid"


ONE_ID = [
    {"subuids": ()},
    {"subgids": ()},
    {"helpers": {}},
    {"helpers": {"newuidmap": "/usr/bin/newuidmap"}},
    {"subuids": (IdRange(100_000, 255),)},
]


@pytest.mark.parametrize("lacks", ONE_ID, ids=str)
def test_a_host_without_subordinate_ids_gives_one_id_and_says_so(lacks: dict[str, Any]) -> None:
    made = plan(make_facts(**lacks))
    assert (made.ids, made.enforced_by["ids"]) == ("single", "single")
    assert (made.launch.builder, made.launch.program) == ((1000, 1000), (1000, 1000))
    assert not made.launch.drops_groups
    assert any("one id only" in each for each in made.warnings)
    assert made.make_idmap(5, FACTS).uids == ((1000, 1000, 1),)


def test_only_slirp4netns_has_a_jail_of_one_id_made_in_a_namespace_around_it() -> None:
    own = {name: f"/bin/{name}" for name in ("newuidmap", "newgidmap", "slirp4netns")}
    facts, both = (make_facts(helpers=each) for each in (own, {**own, "pasta": "/bin/pasta"}))
    for network in ("none", "host", "filtered", "pasta", "slirp"):
        assert plan(both, network=network, userns="single").zygote == "single"
    for network in ("slirp", "slirp4netns"):
        assert plan(facts, network=network).zygote == "subuid"
        made = plan(facts, network=network, userns="single")
        assert (made.ids, made.zygote) == ("single", "root")
        assert made.make_idmap(-1, facts).uids == ((made.user.uid, 0, 1),)


def test_one_id_that_was_asked_for_is_nothing_to_complain_of() -> None:
    made = plan(userns="single")
    assert (made.ids, made.warnings, made.notes) == ("single", (), ())


def test_groups_that_stay_are_mentioned() -> None:
    facts = make_facts(groups=(1000, 27, 100))
    made = plan(facts, userns="single")
    assert any("supplementary groups" in each for each in made.warnings)
    assert plan(facts).warnings == ()


def test_a_slice_is_built_by_its_root_and_run_by_the_program() -> None:
    made = plan()
    assert made.ids == "subuid"
    assert (made.launch.builder, made.launch.program) == ((0, 0), (1000, 1000))
    assert made.launch.drops_groups
    assert made.make_idmap(7, FACTS).program == (1000, 1000)


USER_AS = [
    ({}, None),
    ({"seen": (see("/data"),), "volumes": ["/data:/data:ro"]}, None),
    ({"seen": (see("/data", uid=1000),), "volumes": ["/data:/data:ro"]}, None),
    ({"seen": (see("/data"),), "volumes": ["/data:/data"]}, (1000, 1000)),
    ({"seen": (see("/d"), see("/e")), "volumes": ["/d:/d:ro", "/e:/e"]}, (1000, 1000)),
    ({"seen": (see("/data"),), "volumes": ["/data:/data"], "user": "5:6"}, (5, 6)),
    ({"rootfs": see("/r", uid=1000)}, (0, 0)),
    ({"rootfs": see("/r", uid=0)}, None),
    ({"rootfs": see("/r", uid=4242)}, None),
    ({"rootfs": see("/r", uid=1000), "seen": (see("/d"),), "volumes": ["/d:/d"]}, (1000, 1000)),
]


@pytest.mark.parametrize(("options", "user_as"), USER_AS, ids=lambda each: str(each)[:50])
def test_who_is_the_user_inside(options: dict[str, Any], user_as: tuple[int, int] | None) -> None:
    """Only who writes the user's files, or must own the user's root filesystem, is the user."""
    made = plan(**options)
    assert made.user_as == user_as
    mapped = [each for each in made.make_idmap(0, FACTS).uids if each.outside == 0]
    assert [each.inside for each in mapped] == ([] if user_as is None else [user_as[0]])


def test_with_one_id_there_is_nobody_to_choose() -> None:
    made = plan(userns="single", seen=(see("/data"),), volumes=["/data:/data"])
    assert made.user_as is None
    assert made.make_idmap(0, FACTS).uids == ((1000, 1000, 1),)


# -- mounts ---------------------------------------------------------------------------------------


def test_what_comes_from_the_host_is_locked() -> None:
    made = plan(seen=(see("/a"), see("/b")), volumes=["/a:/x", "/b:/y:ro"])
    attrs = {step.path: step.attr for step in find(made, Bind)}
    read_only = LOCKED | mount.MOUNT_ATTR_RDONLY
    assert attrs == {"usr": read_only, "x": LOCKED, "y": read_only}
    paths = [made.launch.sources[step.source].path for step in find(made, Bind)]
    assert paths == ["/usr", "/a", "/b"]


def test_the_host_s_root_is_new_small_and_sealed_last() -> None:
    made = plan()
    assert made.launch.root.lower is None
    assert made.launch.steps[-1] == Seal("")
    files = dict(find(made, WriteFiles)[0].files)
    assert set(files) == {
        f"etc/{n}" for n in ("passwd", "group", "hosts", "hostname", "nsswitch.conf")
    }
    assert find(made, MakeLinks)[0].links == HOST_TREE.links


def test_a_directory_s_root_is_an_overlay_and_nothing_of_the_host_s() -> None:
    made = plan(rootfs=see("/r"))
    root = made.launch.root
    assert (root.overlay, root.read_only) == (True, False)
    assert root.lower is not None
    assert made.launch.sources[root.lower].path == "/r"
    assert find(made, WriteFiles) == find(made, Bind) == find(made, Seal) == []


def test_a_read_only_root_needs_no_overlay_where_all_mount_points_are_there() -> None:
    all_there = frozenset({"proc", "dev", "tmp", "work", "data", "etc"})
    bare = plan(rootfs=see("/r"), dirs=all_there, read_only=True)
    assert not bare.launch.root.overlay
    assert bare.launch.steps[-1] == Seal("")
    for dirs in (all_there - {"work"}, all_there - {"proc"}):
        assert plan(rootfs=see("/r"), dirs=dirs, read_only=True).launch.root.overlay
    more = plan(
        rootfs=see("/r"), dirs=all_there, read_only=True, seen=(see("/d"),), volumes=["/d:/etc/d"]
    )
    assert more.launch.root.overlay
    assert plan(rootfs=see("/r"), dirs=all_there).launch.root.overlay, "it is written to"


def test_proc_is_covered_where_it_has_something_to_hide() -> None:
    facts = make_facts(proc_sensitive=("kcore", "keys", "sys", "fs", "acpi", "zoneinfo"))
    assert find(plan(facts), MountProc) == [MountProc(("acpi", "kcore", "keys"), ("fs", "sys"))]
    assert find(plan(make_facts(proc_sensitive=())), MountProc) == [MountProc((), ())]


def test_dev_has_the_devices_that_were_found() -> None:
    (dev,) = find(plan(), MountDev)
    assert dev.devices == DEVICES == ("null", "zero", "full", "random", "urandom", "tty")


def scratch(made: Plan) -> dict[str, str]:
    return {step.path: step.name for step in find(made, BindScratch)}


@pytest.mark.parametrize(
    ("options", "made_at"),
    [
        ({}, "work"),
        ({"workdir": "/srv/a b/c"}, "srv/a b/c"),
        ({"workdir": "/tmp/deep/er"}, "tmp/deep/er"),
        ({"workdir": "/tmp"}, None),
        ({"workdir": "/"}, None),
        ({"workdir": "/usr/share"}, None),
        ({"workdir": "/usrlocal"}, "usrlocal"),
        ({"workdir": "/bin"}, None),
        ({"workdir": "/lib/x"}, None),
        ({"tmpfs": ["/work"]}, None),
        ({"tmpfs": ["/tmp"], "workdir": "/tmp/x"}, None),
        ({"seen": (see("/d"),), "volumes": ["/d:/data"], "workdir": "/data/sub"}, None),
        ({"seen": (see("/d"),), "volumes": ["/d:/work/sub"]}, "work"),
        ({"rootfs": see("/r")}, "work"),
        ({"rootfs": see("/r"), "workdir": "/srv"}, None),
    ],
    ids=str,
)
def test_the_working_directory_is_made_unless_it_was_given(
    options: dict[str, Any], made_at: str | None
) -> None:
    made = plan(**options)
    places = [path for path, name in scratch(made).items() if name == "work"]
    assert places == ([] if made_at is None else [made_at])
    assert made.launch.workdir == options.get("workdir", "/work")


def test_tmp_is_ours_unless_it_was_given() -> None:
    assert scratch(plan())["tmp"] == "tmp"
    assert "tmp" not in scratch(plan(tmpfs=["/tmp:5m"]))


def test_a_tmpfs_is_as_large_as_was_asked_else_as_the_disk() -> None:
    made = plan(tmpfs=["/a:5m", "/b"], disk="7m")
    sizes = {step.path: step.options["size"] for step in find(made, Mount)}
    assert sizes == {"a": str(5 * MiB), "b": str(7 * MiB)}
    assert all(step.attr == LOCKED for step in find(made, Mount))
    assert made.launch.root.disk_bytes == 7 * MiB


def mounts(made: Plan) -> list[str]:
    return [step.path for step in made.launch.steps if isinstance(step, Bind | Mount)]


def test_what_lies_in_another_mount_is_mounted_after_it() -> None:
    """In whatever order they were given, none hides what was given below it."""
    made = plan(
        seen=(see("/1"), see("/2"), see("/3")),
        volumes=["/1:/data/x/y", "/2:/data/x", "/3:/a"],
        tmpfs=["/data", "/a/b"],
    )
    order = mounts(made)
    assert sorted(order) == ["a", "a/b", "data", "data/x", "data/x/y", "usr"]
    for above, below in (("data", "data/x"), ("data/x", "data/x/y"), ("a", "a/b")):
        assert order.index(above) < order.index(below)


# -- limits ---------------------------------------------------------------------------------------


def test_limits_become_rlimits() -> None:
    limits = limits_of(plan(memory="64m", pids_limit=10, disk="5m"))
    assert limits[resource.RLIMIT_NPROC] == (11, 11), "the agent counts too"
    assert limits[resource.RLIMIT_FSIZE] == (5 * MiB, 5 * MiB)
    assert limits[resource.RLIMIT_DATA] == (64 * MiB + 1024 * MiB,) * 2
    assert limits[resource.RLIMIT_NOFILE] == (1024, 4096)
    assert limits[resource.RLIMIT_CORE] == (1, 1), "0 doesn't keep a piped core_pattern away"
    assert resource.RLIMIT_AS not in limits, "address space is not memory"


def test_without_limits_only_what_costs_nobody_anything_is_limited() -> None:
    limits = limits_of(plan(limits=UNLIMITED))
    assert set(limits) == {resource.RLIMIT_CORE, resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO}


def test_an_ulimit_is_the_program_s_and_the_agent_makes_room() -> None:
    made = plan(ulimits=["nofile=8:9000", "core=0", "fsize=unlimited", "nproc=3"])
    assert made.program_rlimits == (
        (resource.RLIMIT_NOFILE, 8, 9000),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, -1, -1),
        (resource.RLIMIT_NPROC, 3, 3),
    )
    limits = limits_of(made)
    assert limits[resource.RLIMIT_NOFILE] == (1024, 9000)
    assert limits[resource.RLIMIT_FSIZE][1] == -1
    assert limits[resource.RLIMIT_NPROC][1] == 257, "not lowered for the agent"


sizes = st.one_of(st.none(), st.integers(1, 2**63 - 1), st.just(2**63 - 1))


@given(sizes, sizes, sizes, sizes)
def test_no_limit_is_too_large_for_the_kernel_s_numbers(
    memory: int | None, pids: int | None, disk: int | None, output: int | None
) -> None:
    limits = Limits(memory_bytes=memory, pids=pids, disk_bytes=disk, output_bytes=output)
    made = plan(limits=limits)
    for soft, hard in limits_of(made).values():
        assert -1 <= soft < 2**63
        assert -1 <= hard < 2**63
    assert 0 < made.launch.root.inodes <= 2**24


def test_what_holds_each_limit_is_said() -> None:
    held = plan().enforced_by
    assert held == {
        "memory": "watch+rlimit",
        "cpu_time": "watch",
        "wall_time": "supervisor",
        "pids": "rlimit",
        "output": "supervisor",
        "disk": "tmpfs+rlimit",
        "ids": "subuid",
        "network": "namespace",
        "seccomp": "filter",
        "landlock": "ruleset",
    }
    bare = make_facts(landlock_abi=0)
    nothing = plan(bare, limits=UNLIMITED, seccomp="unconfined", network="host", userns="single")
    assert set(nothing.enforced_by.values()) == {"none", "single"}
    assert plan(ulimits=["nofile=9"]).enforced_by["nofile"] == "rlimit"


@pytest.mark.parametrize(
    "require",
    [{"memory": "watch"}, {"memory": "rlimit"}, {"ids": "subuid"}, {"seccomp": "filter"}, {}],
    ids=str,
)
def test_what_is_required_and_there_is_no_trouble(require: dict[str, str]) -> None:
    assert plan(require=require).spec.require == require


@pytest.mark.parametrize(
    ("facts", "options", "require"),
    [
        (FACTS, {}, {"memory": "cgroup"}),
        (FACTS, {}, {"memory": "watch+rlimit"}),
        (FACTS, {}, {"memory": "watchh"}),
        (FACTS, {"memory": None}, {"memory": "watch"}),
        (FACTS, {"userns": "single"}, {"ids": "subuid"}),
        (NO_SUBIDS, {}, {"ids": "subuid"}),
        (make_facts(landlock_abi=1), {}, {"landlock": "ruleset"}),
        (FACTS, {"seccomp": "unconfined"}, {"seccomp": "filter"}),
        (FACTS, {"network": "host"}, {"network": "namespace"}),
    ],
    ids=str,
)
def test_what_is_required_and_weaker_here_is_refused(
    facts: HostFacts, options: dict[str, Any], require: dict[str, str]
) -> None:
    with pytest.raises(HostError, match="require") as caught:
        plan(facts, require=require, **options)
    # At these steps the doctor knows what to do.
    steps = {"cgroup": "cgroup", "ruleset": "landlock"}
    (mechanism,) = require.values()
    assert caught.value.step == steps.get(mechanism, "require")


def test_requiring_a_limit_that_isn_t_one_is_the_caller_s_mistake() -> None:
    with pytest.raises(SpecError, match="memroy"):
        plan(require={"memroy": "watch"})


# -- environment and words ------------------------------------------------------------------------


def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    made = plan(env={"A": "1", "LANG": "de"}, hostname="box", workdir="/srv")
    assert made.env == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/srv",
        "USER": "jail",
        "LANG": "de",
        "HOSTNAME": "box",
        "A": "1",
    }


def test_home_and_name_are_the_user_s() -> None:
    passwd = "root:x:0:0::/root:/bin/sh\nbob:x:5:6::/home/bob:/bin/sh\n"
    root = plan(rootfs=see("/r"), user="root", passwd=passwd)
    assert (root.env["HOME"], root.env["USER"]) == ("/root", "root")
    bob = plan(rootfs=see("/r"), user="bob", passwd=passwd)
    assert (bob.env["USER"], bob.launch.program) == ("bob", (5, 6))
    assert plan(user="0").env["HOME"] == "/work", "the host's root has no /root"


def test_an_unknown_user_is_refused_in_the_words_that_were_given() -> None:
    with pytest.raises(SpecError, match="carol"):
        plan(user="carol")


def test_everything_weaker_than_it_could_be_is_noted() -> None:
    made = plan(network="host", seccomp="unconfined")
    assert len(made.notes) == 2
    assert plan().notes == ()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rootfs": see("/r"), "read_only": True},
        {"tmpfs": ["/a"], "seen": (see("/d"),), "volumes": ["/d:/\udcff\n:ro"]},
    ],
    ids=str,
)
def test_a_plan_survives_the_way_to_the_one_who_carries_it_out(options: dict[str, Any]) -> None:
    import msgpack

    launch = plan(**options).launch
    packed = msgpack.packb(launch.to_wire(), unicode_errors="surrogateescape")
    plain = msgpack.unpackb(packed, unicode_errors="surrogateescape", use_list=False)
    assert LaunchPlan.from_wire(plain) == launch


def test_the_same_question_gets_the_same_answer() -> None:
    assert plan() == plan()
    assert plan() != plan(replace(FACTS, time_ns=False))
