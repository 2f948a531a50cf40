"""Who can take another task: as looking at every replica would tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.dispatch.loads import Loads
from tests.run.fakes import FakeReplica

MOST = 2
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "take", "alone", "let go"]), st.integers(0, 9)), max_size=80
)


@given(actions=ACTIONS)
def test_finds_what_looking_at_every_replica_finds(actions: list[tuple[str, int]]) -> None:
    loads, load, alone = Loads(MOST), dict[FakeReplica, int](), set[FakeReplica]()
    for number, (what, which) in enumerate(actions):
        if what == "add":
            load[new := FakeReplica(f"r{number}")] = 0
            loads.add(new)
        elif load:
            replica = list(load)[which % len(load)]
            if what == "remove":
                loads.remove(replica)
                del load[replica]
                alone.discard(replica)
            elif what == "let go" and load[replica]:
                loads.finish(replica)
                load[replica] -= 1
                alone.discard(replica)
            elif what == "take" and load[replica] < MOST and replica not in alone:
                loads.take(replica)
                load[replica] += 1
            elif what == "alone" and load[replica] == 0:
                loads.take(replica, alone=True)
                load[replica] += 1
                alone.add(replica)
        free = {replica: n for replica, n in load.items() if replica not in alone}
        for n in range(MOST + 1):
            these = {replica for replica, has in free.items() if has == n}
            found = loads.first(n)
            assert (found in these) if these else (found is None)
            other = loads.first(n, but=found)
            assert (other in these - {found}) if len(these) > 1 else (other is None)
        least_loaded = loads.least_loaded()
        assert (
            (free[least_loaded] == min(free.values())) if least_loaded in free else (least_loaded is None and not free)
        )
        assert loads.alone == bool(alone)
