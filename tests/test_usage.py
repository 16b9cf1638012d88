"""What a living jail has used, where no cgroup counts it; and what can't be done without one."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import jail.cgroup.grant
from jail import HostError, JailBroken, Supervisor
from tests.sight import wait_until

MiB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this host delegates."""

    async def find_none(*_: Any) -> tuple[None, tuple[str, ...]]:
        return None, ("scope: none today",)

    monkeypatch.setattr("jail.launcher.open_subtree", find_none)


async def test_a_jail_s_usage_is_that_of_all_its_programs_so_far(supervisor: Supervisor) -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    async with supervisor.open_jail() as j:
        before = await j.usage()
        await j.run(["python3", "-c", spin])
        after = await j.usage()
    assert (before.processes, before.memory_bytes) == (0, 0)
    assert before.cpu_time_s < 0.1
    assert 0.45 <= after.cpu_time_s < 2, "read in ticks of 10 ms"
    assert after.processes == 0
    assert (after.oom_kills, after.cpu_user_time_s, after.io_read_bytes) == (None, None, None)


async def test_what_lives_is_in_it(supervisor: Supervisor) -> None:
    source = (
        f"import time; held = bytearray({64 * MiB}); print('ready', flush=True); time.sleep(60)"
    )
    async with (
        supervisor.open_jail() as j,
        j.start(["python3", "-c", source]) as process,
    ):
        assert process.stdout is not None
        await process.stdout.receive_some(1)
        usage = await j.usage()
    assert usage.processes == 1
    assert 64 * MiB < usage.memory_bytes < 128 * MiB
    assert usage.to_json()["memory_bytes"] == usage.memory_bytes


async def test_a_jail_that_has_ended_has_no_usage(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        j.kill()
        await wait_until(lambda: j._session.broken is not None, "it has ended")
        with pytest.raises(JailBroken), trio.fail_after(5):
            await j.usage()


async def test_nothing_can_be_paused_without_a_cgroup_and_the_error_says_why(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j:
        for act in (j.pause, j.resume):
            with pytest.raises(HostError, match="none today") as caught:
                await act()
            assert caught.value.step == "cgroup"
        assert (await j.run(["true"])).ok


async def test_a_cgroup_that_is_required_and_not_there_is_an_error_that_says_why(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked as if there would be one."""
    grant = jail.cgroup.grant.Grant("scope", "/sys/fs/cgroup/x", frozenset({"memory"}))
    monkeypatch.setattr("jail.supervisor.predict_grant", lambda *_: (grant, ()))
    with pytest.raises(HostError, match=r"require memory=cgroup.*scope: none today"):
        await supervisor.run(["true"], require={"memory": "cgroup"})
