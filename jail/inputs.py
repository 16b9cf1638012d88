"""Everything of the host that a plan depends on, looked at once for each spec."""

from __future__ import annotations

from dataclasses import replace

from jail.cgroup.subtree import predict_grant
from jail.host import HostFacts
from jail.network.uplink import read_uplink
from jail.plan import DEVICES, Inputs, Plan, make_plan
from jail.policy import cache
from jail.policy.action import Report
from jail.policy.filters import Filters
from jail.policy.load import Policy, load_policy
from jail.source import (
    read_devices,
    read_host_tree,
    read_inside,
    read_resolv_conf,
    read_rootfs,
    read_source,
    read_throttle,
    read_top_dirs,
)
from jail.spec import JailSpec
from jail.user import HOST_GROUP, HOST_PASSWD


def plan_jail(spec: JailSpec, facts: HostFacts) -> Plan:
    """Look at what the spec names, then decide. Starts nothing."""
    grant, passed_over = predict_grant(facts, spec.cgroup_parent)
    inputs = replace(read_inputs(spec, facts), grant=grant, passed_over=passed_over)
    return make_plan(spec, facts, inputs)


def read_inputs(spec: JailSpec, facts: HostFacts) -> Inputs:
    """Everything of the host that the plan depends on, but for the cgroup, looked at once."""
    on_host = spec.rootfs == "host"
    policy = None if spec.seccomp == "unconfined" else load_policy(spec.seccomp)
    if spec.watched:
        from jail.policy.learn.ceiling import make_watched

        policy = make_watched(policy)
    rootfs = None if on_host else read_rootfs(spec.rootfs)
    passwd, group = HOST_PASSWD, HOST_GROUP
    if rootfs is not None and spec.user is not None:
        passwd = read_inside(rootfs.source.path, "etc/passwd")
        group = read_inside(rootfs.source.path, "etc/group")
    return Inputs(
        host_tree=read_host_tree() if on_host else None,
        rootfs=rootfs,
        rootfs_dirs=read_top_dirs(rootfs.source.path) if rootfs else frozenset(),
        volumes=tuple(read_source(each.source, "volume") for each in spec.volumes),
        devices=read_devices(DEVICES),
        passwd=passwd,
        group=group,
        policy=policy,
        filters=read_filters(policy, spec, facts),
        throttles=tuple(map(read_throttle, spec.limits.throttles)),
        resolv_conf="" if spec.network == "none" else read_resolv_conf(),
        has_uplink=spec.network != "slirp" or read_uplink(),
    )


def read_filters(policy: Policy | None, spec: JailSpec, facts: HostFacts) -> Filters:
    """The policy's BPF, none for unconfined."""
    if policy is None:
        return Filters()
    report: Report = "all" if spec.explain_denied else "denied"
    if facts.listener_taken:
        report = "traced-all" if spec.explain_denied else "traced"
    return cache.read_filters(policy, facts.cache_dir, report)
