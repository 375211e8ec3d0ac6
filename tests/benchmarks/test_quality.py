"""What the quality benchmark keeps and reads; the page shows what the committed trials say."""

import json
import math

import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality import drawing, reading
from benchmarks.quality.tasks import TASKS
from benchmarks.quality.train import BINS, Trial


def falling(optimizer, number, seed, last, length=1.0, fails=False):
    """A run whose loss falls on a line from 1 to its last."""
    bins = round(BINS * length)
    losses = [1 - (1 - last) * (i + 1) / bins for i in range(bins)]
    return Trial(optimizer, number, seed, length, [*losses[:5], None] if fails else losses, 2.0 * length)


TRIALS = [
    falling("adamw", 0.01, 0, 0.5),
    falling("adamw", 0.1, 0, 0.6),
    falling("adamw", 0.01, 1, 0.51),
    falling("adamw", 0.01, 2, 0.49),
    falling("nesterov", 0.3, 0, 0.9),
    falling("nesterov", 0.3, 1, 0.9),
    falling("shampoo", 0.01, 0, 0.4),
    falling("shampoo", 0.1, 0, 0.2),
    falling("shampoo", 0.1, 1, 0.2),
    falling("shampoo", 0.1, 0, 0.4, length=0.6),
    falling("shampoo", 0.1, 1, 0.4, length=0.6),
    falling("soap", 0.1, 0, 0.2),
    falling("soap", 0.1, 1, 0.2, fails=True),
]


def test_the_target_is_that_of_the_worst_seed_of_the_best_first_order_method():
    smooth = falling("adamw", 0.01, 1, 0.51).losses[-3:]
    assert reading.target(TRIALS) == ("adamw", pytest.approx(sum(smooth) / 3))
    assert reading.target(TRIALS, "nesterov")[0] == "nesterov"


def test_the_better_length_of_the_schedule_counts():
    goal = reading.target(TRIALS)[1]
    adamw, shampoo = (reading.to_target(name, TRIALS, goal) for name in ("adamw", "shampoo"))
    assert (adamw.least, adamw.most) == (39 / 40, 1.0)
    assert shampoo.steps == 21 / 40  # with the short one; with the long one 26 / 40
    assert shampoo.seconds == pytest.approx(2.0 * 21 / 40)
    assert drawing.ratio("shampoo", TRIALS, "steps") == pytest.approx(21 / 39.5)


def test_a_run_that_fails_or_stays_above_never_gets_there():
    goal = reading.target(TRIALS)[1]
    assert reading.to_target("soap", TRIALS, goal).steps == math.inf
    assert reading.to_target("nesterov", TRIALS, goal).seconds == math.inf
    assert drawing.cell(math.inf) == "never"


def test_what_the_documented_rate_costs_is_steps_by_the_steps_of_the_tuned_run():
    assert reading.documented("shampoo", TRIALS).number == 0.01  # AdamW's best
    tuned, last = falling("shampoo", 0.1, 0, 0.2), reading.final(falling("shampoo", 0.01, 0, 0.4))
    assert reading.slowdown("shampoo", TRIALS) == 1 / reading.part_to(tuned, last)
    assert 1.2 < reading.slowdown("shampoo", TRIALS) < 1.4
    assert reading.slowdown("adamw", TRIALS) == 1.0


def test_all_have_the_same_draws_and_the_best_goes_on():
    factors = command.draws()
    assert all(0.1 <= x <= 10 for x in factors)
    assert sorted(int(3 * (math.log10(x) + 1)) for x in factors) == list(range(6))  # one in each part
    method = command.METHODS["shampoo"]
    search = command.wanted("shampoo", method, 0.01, [], seeds=2)
    assert [what[2:] for what in search] == [(0, 1.0)] * 6
    numbers = sorted(what[1] for what in search)
    done = [falling(*what[:3], last=abs(what[1] - numbers[2]) / 10 + 0.1) for what in search]
    near = command.wanted("shampoo", method, 0.01, done, seeds=2)[6:]
    assert near == [("shampoo", number, 0, 0.6) for number in numbers[2:4]]
    done += [falling(*what[:3], last=1 - what[1], length=0.6) for what in near]  # the larger is better here
    later = command.wanted("shampoo", method, 0.01, done, seeds=2)[8:]
    assert later == [
        ("shampoo", *rest) for seed in (1, 2) for rest in ((numbers[2], seed, 1.0), (numbers[3], seed, 0.6))
    ]


def test_a_smaller_state_is_trained_at_the_numbers_of_the_larger_one_too():
    method, found = command.METHODS["shampoo, small state"], []
    assert method.larger == "shampoo"
    for name, best in (("shampoo", 0), ("shampoo, small state", 3)):
        search = command.wanted(name, command.METHODS[name], 0.01, [], seeds=2)
        numbers = sorted(what[1] for what in search)
        found += [falling(*what[:3], last=abs(what[1] - numbers[best]) + 0.1) for what in search]
        near = command.wanted(name, command.METHODS[name], 0.01, found, seeds=2)[6:8]
        found += [falling(*what[:3], last=what[1], length=0.6) for what in near]  # the smaller is better here
    assert reading.chosen("shampoo", found, 1.0) == reading.chosen("shampoo", found, 0.6) == numbers[0]
    more = command.wanted("shampoo, small state", method, 0.01, found, seeds=2)[8:]
    assert [what[1:] for what in more] == [
        (number, seed, length) for number in (numbers[3], numbers[0]) for seed in (1, 2) for length in (1.0, 0.6)
    ]
    done = [falling("shampoo, small state", *what[1:3], last=what[1], length=what[3]) for what in more]
    at = {t.number for of in (None, "shampoo") for t in reading.seeds_of("shampoo, small state", found + done, of=of)}
    assert at == {numbers[0], numbers[3]}


def test_two_tasks_train_and_their_trials_are_kept(tmp_path):
    command.main(["--quick", "--tasks", "physics", "quadratic", "--output", str(tmp_path)])
    for name in ("physics", "quadratic"):
        (trial,) = command.load(tmp_path / f"{name}.json", TASKS[name].quick)
        assert len(trial.losses) == BINS
        assert trial.losses[-1] < trial.losses[0]
        assert json.loads((tmp_path / f"{name}.json").read_text())["machine"]["jax"]
        with pytest.raises(SystemExit, match="remove the file"):
            command.load(tmp_path / f"{name}.json", {"steps": 1})


@pytest.mark.slow
def test_every_task_trains(tmp_path):
    command.main(["--quick", "--output", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(TASKS)


def test_the_page_shows_what_the_trials_say(monkeypatch):
    smoothed, kept = reading.smoothed, {}  # each trial is asked for some fifty times

    def once(trial):
        if id(trial) not in kept:
            kept[id(trial)] = smoothed(trial)
        return kept[id(trial)]

    monkeypatch.setattr(reading, "smoothed", once)
    page = drawing.PAGE.read_text()
    assert page == drawing.written(page, drawing.tables(drawing.load(command.RESULTS, list(TASKS))))


@pytest.mark.parametrize(("name", "times"), [("shampoo", 2.5), ("soap", 3.0)])
def test_a_small_state_costs_at_most_two_percent_of_the_steps_on_every_task(name, times):
    small = f"{name}, small state"
    assert round(drawing.size(small), 2) <= times
    for task, trials in drawing.load(command.RESULTS, list(TASKS)).items():
        assert drawing.ratio(small, trials, "steps", by=name, of=name) <= 1.02, task


def test_the_page_shows_which_parts_of_kl_soap_did_harm():
    found = json.loads((command.RESULTS.parent / "kl_soap.json").read_text())
    text = drawing.PAGE.read_text().split("<!-- kl_soap begins -->")[1].split("<!-- kl_soap ends -->")[0]
    shown = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.strip().splitlines()[2:]]
    assert shown == [[name, ", ".join(f"{x:.3f}" for x in losses)] for name, losses in found["last_losses"].items()]
