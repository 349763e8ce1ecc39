"""The viewer reads a run as it is: growing, damaged, old; lists, filters, searches; over HTTP."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import text_run
from starlette.testclient import TestClient
from viewer_run import HOSTILE, STEPS, append, make, rejudge, without_entropies

from genac.cli import main
from genac.runs.store import Run
from genac.runs.tables import encode
from genac.ui.viewer.filters import Filters
from genac.ui.viewer.index import Index
from genac.ui.viewer.library import is_library, make_library
from genac.ui.viewer.page import write_page
from genac.ui.viewer.server import make_app


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("viewer") / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy that the test may change."""
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.fixture
def index(run):
    result = Index(run)
    result.refresh()
    return result


@pytest.fixture
def client(run):
    with TestClient(make_app(run)) as client:
        settle(client)
        yield client


def settle(client):
    """Requests until all steps are read, as the page does."""
    for _ in range(20):
        result = client.get("/api/run").json()
        if result["indexed"]["done"] == result["indexed"]["total"]:
            return result
    raise AssertionError(result)


def places(page):
    return [(row["step"], row["group"], row["member"]) for row in page["rows"]]


# --- the index ----------------------------------------------------------------------------------


def test_the_newest_step_comes_first(index):
    page = index.page(Filters(size=5))
    assert page["total"] == 12
    assert places(page) == [(20, 0, 0), (20, 0, 1), (20, 1, 0), (20, 1, 1), (10, 0, 0)]
    assert places(index.page(Filters(size=5, page=3))) == [(0, 1, 0), (0, 1, 1)]


def test_each_row_says_what_the_values_did(index):
    rows = {(r["group"], r["member"]): r for r in index.page(Filters(step_min=20))["rows"]}
    wrong = rows[0, 1]
    assert wrong["values"] == pytest.approx([0.5, 0.8, 0.2], abs=1e-3)
    assert wrong["fall"] == pytest.approx(0.6, abs=1e-6)
    # both share the first two states' prefixes: (1 + 0) / 2 was observed there
    assert wrong["gap"] == pytest.approx(0.3, abs=1e-6)
    gone = rows[1, 1]
    assert gone["values"][1] is None and gone["missing"] == 1
    assert gone["fall"] == pytest.approx(0.7, abs=1e-6)  # across the missing score
    assert rows[0, 0]["fall"] == 0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"outcome": "right"}, {(0, 0), (1, 0)}),
        ({"outcome": "wrong"}, {(0, 1), (1, 1)}),
        ({"outcome": "unscored"}, set()),
        ({"min_drop": 0.65}, {(1, 1)}),
        ({"unparsable": True}, {(1, 1)}),
        ({"problem": "PROBLEM-0"}, {(0, 0), (0, 1)}),
        ({"min_gap": 0.25}, {(0, 1), (1, 1)}),
        ({"q": "2+1"}, set()),
        ({"q": "is 1+1"}, {(1, 0), (1, 1)}),
        ({"q": "Response 1 of"}, {(0, 1), (1, 1)}),
        ({"q": "step 1 of problem-1 at"}, {(1, 0), (1, 1)}),
        ({"outcome": "wrong", "problem": "0", "unparsable": True}, set()),
    ],
)
def test_filters(index, filters, expected):
    page = index.page(Filters(**filters))
    assert {(group, member) for _, group, member in places(page)} == expected
    assert page["total"] == len(expected) * len(STEPS)


def test_the_most_telling_are_wrong_responses_with_the_largest_fall(index):
    rows = index.page(Filters(sort="telling"))["rows"]
    wrong, others = rows[:6], rows[6:]
    assert all(row["reward"] < 0.5 for row in wrong) and all(row["reward"] > 0.5 for row in others)
    assert places({"rows": rows[:4]}) == [(20, 1, 1), (10, 1, 1), (0, 1, 1), (20, 0, 1)]
    assert [row["step"] for row in others] == [20, 20, 10, 10, 0, 0]  # then the newest


def test_a_problem_over_training_is_every_response_to_it(client):
    rows = client.get("/api/history?problem=problem-1").json()
    assert [(row["step"], row["member"]) for row in rows] == [
        (step, member) for step in (20, 10, 0) for member in (0, 1)
    ]
    assert {row["group"] for row in rows} == {1} and rows[1]["values"][1] is None


def test_sorting_puts_unknown_values_last_in_both_directions(index, run):
    run.write_estimates("joint", 20, [])
    index.refresh()
    for ascending in (False, True):
        rows = index.page(Filters(sort="drop", ascending=ascending))["rows"]
        assert [r["fall"] is None for r in rows] == [False] * 8 + [True] * 4
    assert places(index.page(Filters(sort="drop")))[0] == (10, 1, 1)


@pytest.mark.parametrize("wrong", [{"sort": "x"}, {"outcome": "x"}, {"page": 0}, {"size": 10**6}])
def test_impossible_filters_are_refused(wrong):
    with pytest.raises(ValueError, match=r"it can be|pages start at 1"):
        Filters(**wrong)


def test_a_bounded_refresh_reads_the_newest_and_goes_on_later(run):
    index = Index(run, clock=iter(range(1000)).__next__)
    index.refresh(budget=0.5)
    assert index.indexed() == (1, 3)
    assert {step for step, _, _ in places(index.page(Filters()))} == {20}
    index.refresh(budget=0.5)
    assert index.indexed() == (2, 3)


def test_a_bounded_search_goes_on_where_it_stopped(run):
    index = Index(run, clock=iter(range(1000)).__next__)
    index.refresh()
    results = [index.page(Filters(q="version"), budget=0.5) for _ in range(3)]
    assert [page["searched"]["done"] for page in results] == [1, 2, 3]
    assert [page["total"] for page in results] == [4, 8, 12]


def test_what_a_running_run_appends_drops_and_rewrites_is_taken_in(run, index):
    version = index.version
    index.refresh()
    assert index.version == version  # nothing new: nothing is done
    append(run, 30)
    index.refresh()
    assert index.indexed() == (4, 4) and index.page(Filters())["rows"][0]["step"] == 30
    assert index.page(Filters(q="version 30"))["total"] == 4
    run.truncate_after("joint", 10)
    index.refresh()
    assert index.page(Filters())["total"] == 8 and index.page(Filters(q="version 30"))["total"] == 0
    run.write_estimates("joint", 10, [])
    index.refresh()
    assert index.page(Filters(step_min=10))["rows"][0]["values"] == []
    assert index.version > version


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really", None])
def test_a_damaged_file_is_named_and_the_rest_is_shown(run, damage):
    path = run.table_path("estimates", "joint", 10)
    path.write_bytes(path.read_bytes()[:400] if damage is None else damage)
    index = Index(run)
    index.refresh()
    assert len(index.notes()) == 1 and "estimates/joint-000010.parquet" in index.notes()[0]
    page = index.page(Filters())
    assert page["total"] == 12
    assert {row["step"] for row in page["rows"] if not row["values"]} == {10}
    assert index.page(Filters(q="at version"))["total"] == 8


def test_a_foreign_file_is_named(run):
    columns = {"a": "int32", "b": "string"}
    run.table_path("rollouts", "joint", 0).write_bytes(encode([(1, "x")], columns))
    index = Index(run)
    index.refresh()
    text = "rollouts/joint-000000.parquet could not be read: the file lacks group, member"
    assert index.notes() == [text]
    assert index.page(Filters(step_max=0))["total"] == 4  # known from the estimates


def test_a_column_of_another_type_is_named(run):
    columns = {
        "group": "int32",
        "member": "int32",
        "start": "int32",
        "end": "int32",
        "value": "string",
    }
    path = run.table_path("estimates", "joint", 0)
    path.write_bytes(encode([(0, 0, 0, 2, "high")], columns))
    index = Index(run)
    index.refresh()
    text = "the column value holds string, not numbers, and is left out"
    assert index.notes() == [f"estimates/joint-000000.parquet: {text}"]


def test_opening_a_run_does_not_import_pandas(run):
    code = (
        "import sys; from genac.runs.store import Run; "
        "from genac.ui.viewer.filters import Filters; from genac.ui.viewer.index import Index; "
        f"index = Index(Run({str(run.path)!r})); index.refresh(); index.page(Filters()); "
        "assert 'pandas' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def older(run, step):
    """The step as it was stored before prompts, tokens and states were."""
    import pyarrow.parquet as parquet

    for folder, gone in (
        ("rollouts", ["tokens"]),
        (
            "estimates",
            ["state", "critic_prompt", "rationale_tokens", "rationale_logprobs", "score_probs"],
        ),
    ):
        path = run.table_path(folder, "joint", step)
        parquet.write_table(parquet.read_table(path).drop_columns(gone), path)


def test_an_older_run_shows_the_same_list(run, index):
    before = index.page(Filters(size=50))
    for step in STEPS:
        older(run, step)
        without_entropies(run, step)
    again = Index(run)
    again.refresh()
    assert again.page(Filters(size=50)) == before and not again.notes()


# --- over HTTP ----------------------------------------------------------------------------------


def test_the_run_in_a_few_words(client):
    result = settle(client)
    assert result["algorithm"] == "genac" and result["status"] == "running"
    assert (result["step"], result["steps"], result["responses"], result["states"]) == (
        20,
        40,
        12,
        36,
    )
    assert result["unparsable"] == 3 and result["missing"] == []


def test_a_trajectory_has_its_states_and_siblings(client):
    result = client.get("/api/trajectory/joint/20/0/1").json()
    assert [s["value"] for s in result["steps"]] == [0.5, 0.8, 0.2] and result["worst"] == 1
    assert result["siblings"] == [{"member": 0, "reward": 1.0}, {"member": 1, "reward": 0.0}]
    state = result["steps"][1]
    assert state["critic_prompt"] == "t7 t1 " and len(state["score_probs"]) == 11
    assert state["observed"] == 0.5 and state["observed_count"] == 2
    assert result["steps"][2]["observed"] is None  # behind the second step they differ


def test_entropies_come_with_the_tokens_and_an_older_run_has_none(client, run):
    result = client.get("/api/trajectory/joint/20/0/1").json()
    assert result["entropies"] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25])
    assert result["steps"][1]["rationale_entropies"] == pytest.approx([0.3, 0.9])
    without_entropies(run, 20)
    result = client.get("/api/trajectory/joint/20/0/1").json()
    assert result["entropies"] is None and len(result["logprobs"]) == 6
    assert result["steps"][1]["rationale_entropies"] is None


def test_one_state_at_every_version_of_the_critic(client):
    result = client.get("/api/versions/joint/10/0/1", params={"start": 2}).json()
    assert [state["critic_version"] for state in result] == [20, 10, 0]
    # Its own judgement where there is one; elsewhere response 0 comes first, with the same prefix.
    assert [state["value"] for state in result] == [0.7, 0.8, 0.7]
    assert result[1]["address"] == "joint/10/0/1"
    later = client.get("/api/versions/joint/10/0/1", params={"start": 4}).json()
    assert [state["value"] for state in later] == [0.2] * 3
    assert client.get("/api/versions/joint/10/0/1", params={"start": 3}).status_code == 422


def test_another_critics_words_stand_behind_the_runs_own_of_that_step(run):
    rejudge(run, 10, "second")
    (run.path / "judged" / "empty").mkdir()
    with TestClient(make_app(run)) as client:
        settle(client)
        result = client.get("/api/versions/joint/10/0/1", params={"start": 2}).json()
        elsewhere = client.get("/api/versions/joint/20/0/1", params={"start": 2}).json()
    rows = [(s["judge"], s["critic_version"], s["value"]) for s in result]
    assert rows == [
        (None, 20, 0.7),
        (None, 10, 0.8),
        ("second", 99, pytest.approx(0.7)),
        (None, 0, 0.7),
    ]
    assert {s["judge"] for s in elsewhere} == {None}


def test_stages_are_distinguished_and_the_later_one_comes_first(run):
    append(run, 10, "critic_rl")
    append(run, 40, "critic_rl")
    with TestClient(make_app(run)) as client:
        settle(client)
        result = client.get("/api/versions/critic_rl/10/0/1", params={"start": 2}).json()
    assert [(s["stage"], s["critic_version"], s["value"]) for s in result] == [
        ("joint", 20, 0.7),
        ("joint", 10, 0.7),
        ("joint", 0, 0.7),
        ("critic_rl", 40, 0.7),
        ("critic_rl", 10, 0.8),
    ]


def test_the_tree_over_http(client):
    result = client.get("/api/tree/joint/0/0").json()
    assert [node["members"] for node in result["nodes"]] == [[0, 1], [0], [0], [1], [1]]


@pytest.mark.parametrize("format", ["html", "md"])
def test_exports_download_and_escape(client, format):
    answer = client.get("/api/export/joint/20/0/1", params={"format": format})
    assert "attachment" in answer.headers["content-disposition"]
    assert "problem-0" in answer.text
    if format == "html":
        assert HOSTILE not in answer.text and "&lt;script&gt;" in answer.text
    assert "entropy" not in answer.text


@pytest.mark.parametrize("format", ["html", "md"])
def test_exports_hold_the_tokens_on_demand(client, run, format):
    queries = {"format": format, "tokens": "true"}
    text = client.get("/api/export/joint/20/0/1", params=queries).text
    cell = "t21·<br><small>0.30 / 0.75<" if format == "html" else "       0.30     0.75  t21·\n"
    assert cell in text and "entropy in nats (mean 0.62)" in text  # of 0.5 and 0.75
    critic = "t41·<br><small>0.22 / 0.90<" if format == "html" else "       0.22     0.90  t41·\n"
    assert text.count(critic) == 3
    without_entropies(run, 20)
    text = client.get("/api/export/joint/20/0/1", params=queries).text
    assert "entropy is not recorded in this run" in text and "0.75" not in text


@pytest.mark.parametrize(
    "path",
    [
        "rollouts?sort=nope",
        "rollouts?page=x",
        "trajectory/joint/99/0/0",
        "trajectory/joint/20/0/9",
        "trajectory/joint/20/x/0",
        "trajectory/..%2F..%2Fetc/0/0/0",
        "export/joint/20/0/0?format=exe",
    ],
)
def test_bad_questions_are_refused_in_words(client, path):
    answer = client.get(f"/api/{path}")
    assert answer.status_code in (404, 422) and answer.json()["detail"]


def test_text_of_models_is_json_and_the_browser_may_run_none_of_it(client):
    answer = client.get("/api/trajectory/joint/20/0/1")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


def test_the_page_calls_no_other_server(client):
    names = ["/"] + [f"/static/{p.name}" for p in static().iterdir()]
    for name in names:
        text = client.get(name).text
        assert "https://" not in text and "innerHTML" not in text, name
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0, name


def static():
    import genac.ui.viewer

    return Path(genac.ui.viewer.__file__).parent / "static"


def test_another_host_name_is_refused_unless_the_user_opened_the_server(run):
    headers = {"Host": "evil.example"}
    for host, expected in (("127.0.0.1", 400), ("0.0.0.0", 200)):
        with TestClient(make_app(run, host)) as client:
            assert client.get("/api/run", headers=headers).status_code == expected


def test_an_empty_a_missing_and_a_truncated_run_are_shown_as_they_are(tmp_path, run):
    (tmp_path / "empty").mkdir()
    with TestClient(make_app(Run(tmp_path / "empty"))) as client:
        result = settle(client)
        assert result["status"] == "unreadable" and len(result["missing"]) == 2
        assert "config.json is missing" in result["missing"][0]
        assert client.get("/api/rollouts").json()["rows"] == []
    (run.path / "config.json").write_text('{"algori')
    with TestClient(make_app(run)) as client:
        assert "config.json is not valid JSON" in settle(client)["missing"][0]
        assert client.get("/api/rollouts").json()["total"] == 12


def test_the_viewer_writes_nothing(client, run):
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    for path in ("run", "rollouts?q=version&sort=gap", "trajectory/joint/0/0/0", "tree/joint/0/0"):
        assert client.get(f"/api/{path}").status_code == 200
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == before


# --- the terminal -------------------------------------------------------------------------------


def test_the_terminal_lists_and_shows_one_response(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["view", "--terminal", str(run.path), "--outcome", "wrong", "--sort", "drop"]) == 0
    text = capsys.readouterr().out
    assert "joint/20/1/1" in text and "8?1" in text and "6 of 6 responses" in text
    assert main(["view", "--terminal", str(run.path), "joint/20/0/1"]) == 0
    text = capsys.readouterr().out
    assert "expected answer 1" in text and "largest fall" in text and HOSTILE[:20] in text
    assert "entropy" not in text


def test_the_terminal_shows_tokens_on_demand(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    queries = ["view", "--terminal", str(run.path), "joint/20/0/1", "--tokens"]
    assert main(queries) == 0
    text = capsys.readouterr().out
    assert "the actor's tokens: probability, and entropy in nats (mean 0.62)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["t21·", "0.30", "0.75"] in rows and rows.count(["t41·", "0.22", "0.90"]) == 3
    without_entropies(run, 20)
    assert main(queries) == 0
    text = capsys.readouterr().out
    assert "entropy is not recorded in this run" in text
    assert ["t21·", "0.30", "-"] in [line.split() for line in text.splitlines()]
    older(run, 20)  # numbers in the place of the actor's tokens, and none of the critic's
    assert main(queries) == 0
    text = capsys.readouterr().out
    assert ["#21", "0.30", "-"] in [line.split() for line in text.splitlines()]
    assert text.count("the critic's tokens: not in this run") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "not a folder"),
        ([], "for example: genac view runs"),
        (["--terminal", "RUN", "joint/1"], "STAGE/STEP/GROUP/MEMBER"),
        (["--terminal", "RUN", "--sort", "x"], "it can be"),
        (["RUN", "joint/1/0/0"], "is for --terminal"),
        (["RUN", "--tokens"], "is for --terminal"),
        (["--terminal", "RUN", "--tokens"], "give its address"),
        (["RUN", "--port", "x"], "invalid int"),
        (["RUN", "--port", "70000"], "choose another --port"),
        (["EMPTY"], "name a folder that 'genac train' wrote"),
        (["MODEL"], "name a folder that 'genac train' wrote"),
    ],
)
def test_wrong_arguments_end_with_one_message(run, capsys, arguments, message, tmp_path):
    places = {"RUN": run.path, "EMPTY": tmp_path / "empty", "MODEL": tmp_path / "model"}
    for name in ("empty", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert main(["view", *(str(places.get(a, a)) for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(run, capsys, monkeypatch):
    monkeypatch.setattr("genac.ui.viewer.command.find_spec", lambda name: None)
    assert main(["view", str(run.path)]) == 2
    assert "pip install 'genac[ui]'" in capsys.readouterr().err


def test_a_port_in_use_is_named(run, capsys):
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert main(["view", str(run.path), "--port", str(busy.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_pages_are_strict_json(client):
    def refuse(name):
        raise AssertionError(name)

    json.loads(client.get("/api/rollouts").text, parse_constant=refuse)


# --- several runs, and the page as one file -------------------------------------------------------


@pytest.fixture
def runs(finished, tmp_path):
    """A folder of two runs, one of them a level deeper."""
    for name in ("first", "tuning/second"):
        shutil.copytree(finished.path, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_a_folder_of_runs_lists_them_and_serves_each(runs):
    assert is_library(runs) and not is_library(runs / "first")
    with TestClient(make_library(runs)) as client:
        listed = client.get("/api/runs").json()
        assert {run["name"] for run in listed["runs"]} == {"first", "tuning~second"}
        assert client.get("/run/first", follow_redirects=False).headers["location"] == "/run/first/"
        assert "static/app.js" in client.get("/run/tuning~second/").text
        assert client.get("/run/first/static/app.js").status_code == 200
        page = client.get("/run/tuning~second/api/rollouts").json()
        assert page["total"] == 12 and page["rows"][0]["step"] == 20
        for lost in ("/run/third/", "/run/../first/api/run", "/run/.../", "/run/"):
            assert client.get(lost).status_code in (404, 422), lost
        assert "side by side" in client.get("/").text and client.get("/pair").status_code == 200


def test_a_library_is_guarded_as_a_single_run_is(runs):
    with TestClient(make_library(runs), base_url="http://evil.example") as client:
        assert client.get("/api/runs").status_code == 400
    with TestClient(make_library(runs)) as client:
        for path in ("/", "/pair", "/api/runs", "/run/first/", "/run/third/"):
            policy = client.get(path).headers["content-security-policy"]
            assert policy.startswith("default-src 'self'") and "frame-ancestors 'self'" in policy


def test_an_export_holds_what_was_chosen_and_nothing_else(run, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["view", str(run.path), "--export", str(target), "joint/10/0/1"]) == 0
    assert "1 responses" in capsys.readouterr().out
    held = answers_in(target.read_text())
    assert held["trajectory/joint/10/0/1"]["steps"][2]["value"] == pytest.approx(0.2)
    assert [row["member"] for row in held["rollouts"]["rows"]] == [1]
    assert not any(path.startswith("trajectory/joint/20") for path in held)
    assert main(["view", str(run.path), "--export", str(target), "--outcome", "wrong"]) == 0
    rows = answers_in(target.read_text())["rollouts"]["rows"]
    assert len(rows) == 6 and rows[0]["fall"] == pytest.approx(0.7)  # the worst mistake first


def test_an_export_escapes_models_and_carries_formulas_only_where_there_are_some(run, tmp_path):
    page = page_of(run, ["joint/10/0/1"], tmp_path)
    assert (
        HOSTILE not in page and "katex" not in page.partition('id="answers"')[2].partition("(()")[0]
    )
    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'") and policy.count("'sha256-") == 1
    real = page_of(text_run.make(tmp_path / "text", (0,)), ["joint/0/0/1"], tmp_path)
    assert "font-family:KaTeX_Main" in real and "data:font/woff2" in real and len(real) < 1.5e6


def page_of(run, addresses, folder):
    write_page(run, folder / "page.html", addresses, Filters())
    return (folder / "page.html").read_text()


def answers_in(page):
    return json.loads(page.partition('id="answers">')[2].partition("</script>")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", "no/such/folder/x.html"], "is not a folder"),
        (["--export", "x.html", "joint/10"], "no address of a response"),
        (["--export", "x.html", "joint/10/0/7"], "has no response 7"),
        (["--export", "x.html", "--problem", "nowhere"], "holds no response to export"),
        (["--terminal", "joint/10/0/1", "joint/10/0/0"], "shows one response"),
    ],
)
def test_wrong_exports_end_with_one_message(run, capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view", str(run.path), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x.html").exists()
