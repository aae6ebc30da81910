import json

import pytest

from tgi_core.cli.app import main
from tgi_core.cli.bench_client import Reply
from tgi_core.cli.bench_load import Load, Span, Workload
from tgi_core.cli.bench_report import percentile, summarize, table


def workload(**changes):
    fields = {
        "model": "m",
        "prompt_tokens": Span(low=32, high=512),
        "output_tokens": Span(low=16, high=128),
        "shared_prefix": 0,
        "ignore_eos": True,
        "seed": 0,
    }
    return Workload(**{**fields, **changes})


def prompts(bodies):
    return [json.loads(body)["prompt"].split() for body in bodies]


class TestWorkload:
    def test_the_same_seed_sends_the_same_requests(self):
        assert workload().bodies(4, 20) == workload().bodies(4, 20)
        assert workload().bodies(4, 20) != workload(seed=1).bodies(4, 20)

    def test_loads_of_one_run_share_no_prompt(self):
        one, other = workload().bodies(4, 50), workload().bodies(16, 50)
        assert not {*map(tuple, prompts(one))} & {*map(tuple, prompts(other))}

    def test_lengths_reach_both_ends_and_no_further(self):
        bodies = workload(prompt_tokens=Span(low=2, high=4), output_tokens=Span(low=5, high=7))
        drawn = [json.loads(body) for body in bodies.bodies(1, 300)]
        assert {len(body["prompt"].split()) for body in drawn} == {2, 3, 4}
        assert {body["max_tokens"] for body in drawn} == {5, 6, 7}

    def test_short_prompts_are_more_frequent_than_long_ones(self):
        lengths = sorted(map(len, prompts(workload().bodies(1, 1000))))
        assert 115 < lengths[500] < 145  # the geometric middle of 32 and 512 is 128

    def test_a_shared_prefix_comes_before_each_prompt(self):
        plain = prompts(workload(prompt_tokens=Span(low=8, high=8)).bodies(1, 9))
        shared = prompts(workload(prompt_tokens=Span(low=8, high=8), shared_prefix=20).bodies(1, 9))
        assert len({tuple(prompt[:20]) for prompt in shared}) == 1
        assert len({tuple(prompt[20:]) for prompt in shared}) == len(plain)
        assert {len(prompt) for prompt in shared} == {28}

    def test_requests_are_greedy_streamed_and_ask_for_usage(self):
        [body] = map(json.loads, workload().bodies(1, 1))
        assert body["temperature"] == 0
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert body["ignore_eos"] is True

    def test_ignore_eos_can_be_left_out_for_servers_that_do_not_know_it(self):
        [body] = map(json.loads, workload(ignore_eos=False).bodies(1, 1))
        assert "ignore_eos" not in body


class TestReport:
    def test_percentiles_are_values_that_occurred(self):
        values = [float(value) for value in range(1, 101)]
        assert percentile(values, 0.5) == 50.0
        assert percentile(values, 0.99) == 99.0
        assert percentile([3.0], 0.99) == 3.0
        assert percentile([], 0.5) is None

    def test_a_failed_request_counts_as_an_error_and_for_nothing_else(self):
        good = Reply(start_s=1.0, end_s=3.0, prompt_tokens=5, completion_tokens=10)
        good.count(1, 1.5)
        good.count(1, 2.0)
        bad = Reply(start_s=1.0, end_s=1.1, completion_tokens=99, error="gone")
        summary = summarize(Load(streams=2, duration_s=2.0, replies=[good, bad]))
        assert (summary.requests, summary.errors) == (2, 1)
        assert summary.output_tokens_per_s == 5.0
        assert summary.requests_per_s == 0.5
        assert summary.prompt_tokens == 5
        assert summary.first_token_p50_s == summary.inter_token_p99_s == 0.5
        assert summary.end_to_end_p50_s == 2.0

    def test_the_table_is_markdown_with_a_row_for_each_load(self):
        summary = summarize(Load(streams=4, duration_s=1.0, replies=[]))
        lines = table([summary, summary]).splitlines()
        assert len(lines) == 4
        assert len({len(line) for line in lines}) == 1
        assert len({line.count("|") for line in lines}) == 1
        assert set(lines[1]) == set("|-:")


class TestCommand:
    def run(self, server, *more):
        return main(["bench", "--url", server.url, "--output-tokens", "2:4", *more])

    def test_loads_are_measured_one_after_another(self, server, tmp_path, capsys):
        file = tmp_path / "results.json"
        status = self.run(server, "--streams", "1,3", "--requests", "6", "--json", str(file))

        assert status == 0
        result = json.loads(file.read_text())
        assert [load["streams"] for load in result["loads"]] == [1, 3]
        assert [load["requests"] for load in result["loads"]] == [6, 6]
        assert [load["errors"] for load in result["loads"]] == [0, 0]
        wanted = sum(request["max_tokens"] for _, _, request in server.requests)
        assert sum(load["output_tokens"] for load in result["loads"]) == wanted
        assert result["workload"]["model"] == "good"
        output = capsys.readouterr()
        assert output.out.count("\n") == 4
        assert output.err.splitlines()[0].startswith("   1 streams: 6 requests")
        assert "\r" not in output.err

    def test_each_stream_keeps_one_connection(self, server):
        assert self.run(server, "--streams", "3", "--requests", "12") == 0
        assert len(server.connections) == 3

    def test_more_streams_send_more_requests(self, server):
        assert self.run(server, "--streams", "8") == 0
        assert len(server.requests) == 32

    def test_failed_requests_are_told_and_change_the_exit_status(self, server, capsys):
        status = self.run(server, "--streams", "2", "--requests", "4", "--model", "refuses")
        assert status == 1
        assert "4 x status 429" in capsys.readouterr().err

    def test_the_api_key_is_sent(self, server):
        self.run(server, "--streams", "1", "--requests", "1", "--api-key", "secret")
        [(path, headers, _)] = server.requests
        assert path == "/v1/completions"
        assert headers["Authorization"] == "Bearer secret"

    def test_a_server_that_is_not_there_is_one_line(self, capsys):
        assert main(["bench", "--url", "http://127.0.0.1:1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("tgi: error: http://127.0.0.1:1/v1/models does not answer")

    @pytest.mark.parametrize(
        "flags",
        [
            ["--streams", "0"],
            ["--streams", "a"],
            ["--prompt-tokens", "9:3"],
            ["--output-tokens", "0:3"],
            ["--requests", "-1"],
        ],
    )
    def test_senseless_numbers_are_refused(self, flags, capsys):
        with pytest.raises(SystemExit) as exit_:
            main(["bench", *flags])
        assert exit_.value.code == 2
        assert flags[0] in capsys.readouterr().err

    def test_a_folder_that_is_not_there_is_told_before_the_load(self, server, tmp_path):
        assert self.run(server, "--json", str(tmp_path / "no" / "such" / "file")) == 2
        assert server.requests == []
