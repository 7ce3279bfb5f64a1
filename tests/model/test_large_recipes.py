"""Recipes of thousands of concepts from the terminal, and the flags of a cluster on their way to the task."""

import time
from dataclasses import replace

import pytest

from mace_studio import cli
from mace_studio.cluster.workers import Cluster
from mace_studio.errors import RecipeError, StudioError
from mace_studio.parser import command_parser
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import tasks
from mace_studio.ui import start


def test_ten_thousand_concepts_of_a_csv_file_are_a_recipe(tmp_path):
    path = tmp_path / "artists.csv"
    path.write_text("phrase,mapping,kind\n" + "".join(f"artist {i},art,style\n" for i in range(10_000)))
    begun = time.process_time()
    recipe = cli.read_recipe(str(path))
    assert time.process_time() - begun < 5
    assert len(recipe.concepts) == 10_000 and recipe.title() == "artists"
    assert recipe.concepts[-1] == Concept("artist 9999", "art", "style")
    path.write_text(path.read_text() + "one more,art,style\n")
    with pytest.raises(RecipeError, match="10001 concepts are too many"):
        cli.read_recipe(str(path))


@pytest.mark.parametrize("words", [["serve", "--cluster", "auto"], ["erase", "cat", "--cluster", "10.0.0.1:6379"]])
def test_the_cluster_of_the_flags_reaches_the_task(words, tmp_path, monkeypatch):
    options = command_parser().parse_args([*words, "--worker-gpus", "0.5", "--out", str(tmp_path)])
    studio = start.build(options)[0] if words[0] == "serve" else cli.open_studio(options, tmp_path)
    assert (studio.place.cluster, studio.place.worker_gpus) == (words[-1], 0.5)
    asked = {}

    def erase(*_, cluster, **__):
        asked["cluster"] = cluster
        raise StudioError("reached")

    monkeypatch.setattr("mace_studio.cluster.erase.erase", erase)
    recipe = Recipe(concepts=[Concept("cat", "forest")])
    with pytest.raises(StudioError, match="reached"):
        tasks.erase(replace(studio.place, output=tmp_path, cache=tmp_path), recipe)
    assert asked["cluster"] == Cluster(address=words[-1], gpus=0.5)


def test_the_cluster_reaches_the_task_of_an_evaluation(tmp_path, monkeypatch):
    options = command_parser().parse_args(["evaluate", "cat", "--cluster", "auto", "--worker-gpus", "0.5"])
    place = replace(cli.open_studio(options, tmp_path).place, output=tmp_path, cache=tmp_path)
    asked = {}

    def evaluate(*given, cluster, **_):
        asked.update(judge=given[2], cluster=cluster)
        return []

    monkeypatch.setattr("mace_studio.cluster.evaluate.evaluate", evaluate)
    assert tasks.evaluate(place, [], "a/clip") == []
    assert asked == {"judge": "a/clip", "cluster": Cluster(address="auto", gpus=0.5)}
