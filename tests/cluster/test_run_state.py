"""State files: who may write them, what they survive, and how a living supervisor is told."""

import os
import subprocess
import sys
from pathlib import Path

from cluster.run_state import ClusterRecord, FleetView, ReplicaView, RunState, recorded, state_dir

STATE = RunState(
    name="trireme",
    cluster_id="abc",
    phase="ready",
    supervisor_pid=17,
    run_dir="/tmp/trireme-x",
    url="http://127.0.0.1:8000",
    started_at="2026-01-31T00:00:00Z",
    config="built-in defaults",
)

HOLD = """
import sys, time
from pathlib import Path
from cluster.run_state import ClusterRecord
with ClusterRecord(Path(sys.argv[1]), "trireme").claimed() as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    record.write(STATE)
    assert record.read() == STATE


def test_a_view_comes_back_as_it_was_written(tmp_path: Path) -> None:
    view = FleetView(1.0, "RUNNING", "", (), (ReplicaView("a", "gateway", "http://x"),))
    record = ClusterRecord(tmp_path, "trireme")
    record.write_view(view)
    assert record.read_view() == view


def test_only_the_owner_can_read_the_state(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    ClusterRecord(folder, "trireme").write(STATE)
    assert (folder / "trireme.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_damaged_state_file_counts_as_none(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    (tmp_path / "trireme.json").write_text('{"name": "tri')
    assert record.read() is None


def test_clearing_forgets_the_cluster(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    record.write(STATE)
    record.write_view(FleetView(1.0, "RUNNING", ""))
    assert recorded(tmp_path) == ["trireme"]

    record.clear()

    assert recorded(tmp_path) == []
    assert record.read_view() is None


def test_a_cluster_nobody_supervises_is_not_held(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    record.write(STATE)
    assert not record.is_held()


def test_only_one_supervisor_holds_a_cluster_and_its_death_frees_it(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert record.is_held()
        with record.claimed() as mine:
            assert not mine
    finally:
        holder.kill()
        holder.communicate()
    assert record.wait_released(5.0)
    with record.claimed() as mine:
        assert mine


def test_children_of_a_supervisor_do_not_hold_its_cluster(tmp_path: Path) -> None:
    record = ClusterRecord(tmp_path, "trireme")
    with record.claimed() as mine:
        assert mine
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not record.is_held()
    finally:
        child.kill()
        child.wait()


def test_state_lives_where_the_environment_says(tmp_path: Path) -> None:
    assert state_dir({"TRIREME_HOME": str(tmp_path)}) == tmp_path / "state"
    assert state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/trireme")
    assert state_dir({}) == Path(os.path.expanduser("~")) / ".local/state/trireme"
