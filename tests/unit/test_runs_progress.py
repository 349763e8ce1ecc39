"""Progress in a log file: few plain lines, always the last, rates of this process only."""

import io

import pytest

from genac.runs.progress import ECHO, Progress, _live_bar, phase, sparkline


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_steps(total, seconds_each, **options):
    clock = Clock()
    with Progress("joint", total, clock=clock, **options) as bar:
        for step in range(options.get("start", 0), total):
            clock.now += seconds_each
            bar.update(step + 1, reward=0.5, kl=None)


def test_plain_lines_come_at_most_every_five_seconds_and_the_last_always(capsys):
    run_steps(20, 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" |")[0] for line in lines] == [
        "joint 1/20",
        "joint 6/20",
        "joint 11/20",
        "joint 16/20",
        "joint 20/20",
    ]
    assert lines[1] == "joint 6/20 | 1.0 s/step, 0:14 left | reward 0.5"


def test_the_rate_of_a_resumed_run_counts_its_own_steps(capsys):
    run_steps(10, 2.0, start=8)
    assert "joint 9/10 | 2.0 s/step, 0:02 left" in capsys.readouterr().out


def test_the_last_numbers_are_printed_when_the_loop_fails(capsys):
    with pytest.raises(RuntimeError), Progress("joint", 9, clock=Clock()) as bar:
        bar.update(1)
        bar.update(2, loss=1.5)
        raise RuntimeError
    assert capsys.readouterr().out.splitlines()[-1] == "joint 2/9 | loss 1.5"


def test_disabled_prints_nothing(capsys):
    run_steps(3, 1.0, enabled=False)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_live_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("joint", 2) as bar:
        bar.update(1, reward=0.25)
        bar.update(2, reward=0.75)
    shown = terminal.getvalue()
    assert "joint" in shown and "2/2" in shown and "reward 0.75" in shown


def terminal(monkeypatch, columns=160, encoding="utf-8", **extra):
    """What a live bar of two steps writes to a terminal."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="replace")
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", stream)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), **extra}.items():
        monkeypatch.setenv(name, value)
    with Progress("joint", 2, sparks={"reward": 1.0, "critic/mse": 0.25}) as bar:
        bar.update(1, **{"reward": 0.25, "critic/mse": 0.2})
        bar.update(2, **{"reward": 1.0, "critic/mse": 0.01, "loss": 1.5})
    stream.flush()
    return written.getvalue().decode("utf-8", "replace")


def test_a_terminal_shows_the_course_of_success_and_of_the_critics_error(monkeypatch):
    assert "reward ▃█ 1  critic/mse ▇▁ 0.01  loss 1.5" in terminal(monkeypatch)


@pytest.mark.parametrize(
    "unable", [{"columns": 80}, {"encoding": "ascii"}, {"TERM": "dumb"}], ids=str
)
def test_a_terminal_that_cannot_show_it_gets_numbers_only(monkeypatch, unable):
    shown = terminal(monkeypatch, **unable)
    assert not set("▁▃▇█") & set(shown) and "joint" in shown


def test_a_log_file_has_no_sparkline(capsys):
    run_steps(2, 1.0, sparks={"reward": 1.0})
    assert capsys.readouterr().out.splitlines()[-1].endswith("| reward 0.5")


def test_a_sparkline_is_the_means_of_equal_stretches_between_nothing_and_its_top():
    assert sparkline([0.0, 0.5, 1.0, 7.0, -1.0], 1.0) == "▁▅██▁"
    assert sparkline([0.0, 1.0, 1.0, 1.0, 0.25], 1.0, cells=3) == "▅█▃"
    assert len(sparkline([0.5] * 1000, 1.0)) == 12
    assert sparkline([], 1.0) == ""


def test_a_bar_leaves_room_for_what_an_interruption_writes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert _live_bar().console.width == 80 - ECHO  # "^C" in the last columns would wrap


def test_a_phase_says_what_begins(capsys):
    with phase("loading the actor"):
        written = capsys.readouterr()
    assert (written.out, written.err) == ("", "loading the actor ...\n")
    assert capsys.readouterr().err == ""  # it took no time worth a line
