"""The `race` command as far as it starts no step."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.parameters import parameters

COMMANDS = (
    *("run", "estimate", "predict", "serve", "export", "import"),
    *("doctor", "submit", "runs", "compile", "parameters", "sample", "images"),
)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"images"}))
def test_each_command_teaches_with_an_example(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"  race {command}" in capsys.readouterr().out


def test_help_lists_the_commands_and_needs_neither_kfp_nor_torch() -> None:
    program = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'kfp', 'torch', 'fairseq'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(result.stdout.splitlines()[-1]) == []
    for command in COMMANDS:
        assert f"\n    {command}" in result.stdout


def test_race_alone_prints_its_help(capsys) -> None:
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: race ")


def test_version_is_that_of_the_package(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"race {metadata.version('race-pipeline')}\n"


def test_race_and_python_m_pipeline_are_the_same() -> None:
    race = Path(sys.executable).with_name("race")
    if not race.exists():
        pytest.skip("the package is not installed")
    for arguments in (["parameters"], ["nonsense"]):
        results = [
            subprocess.run([*start, *arguments], capture_output=True, text=True)
            for start in ([race], [sys.executable, "-m", "pipeline"])
        ]
        assert results[0].returncode == results[1].returncode
        assert results[0].stdout == results[1].stdout
        assert results[0].stderr == results[1].stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "invalid choice: 'rum'"),
        (["run"], "--config"),
        (["run", "--config", "smoek"], "Did you mean 'smoke'?"),
        (["run", "--config", "smoke", "-p", "train_epoch=1"], "Did you mean 'epochs'?"),
        (["run", "--config", "smoke", "-p", "epochs=x"], "expected a whole number"),
        (["run", "--config", "smoke", "-p", "epochs"], "missing. Write it as -p name=value"),
        (["run", "--config", "smoke", "--name", "../up"], "not a plain name"),
        (["run", "--config", "smoke", "--name", "{{$.x}}"], "would put something else for {{$"),
        (["run", "--config", "smoke", "-p", "bpe_url=/a/{{$}}"], "bpe_url /a/{{$}}: Kubeflow Pip"),
        (
            ["run", "--config", "smoke", "--output", "/kfp-workspace"],
            "else for /kfp-workspace. Cho",
        ),
        (["run", "--config", "smoke", "--runner", "podman"], "invalid choice"),
        (["run", "--config", "smoke", "--data-image", "Not An Image"], "not an image reference"),
        (["run", "--config", "smoke", "-p", "train_num_nodes=2"], "has this machine alone"),
        (["run", "--config", "roberta-large-nodes"], "has this machine alone"),
        (["compile", "--output", "pipeline.json"], "not YAML"),
        (["sample", "--output", "somewhere", "--passages", "0"], "at least 1"),
        (["parameters", "--config", "/nonexistent.yaml"], "there is no config"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_run_in_a_folder_whose_name_is_no_text_is_refused_at_once(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert cli.main(["run", "--config", "smoke"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: --output '.*\\udce9/runs/.*': not text in UTF-8\. Rename .*", line)
    assert not list(folder.iterdir())


def test_compile_check_tells_a_stale_file_from_a_fresh_one(tmp_path: Path, capsys) -> None:
    output = tmp_path / "pipeline.yaml"
    assert cli.main(["compile", "--check", "--output", str(output)]) == 3
    assert cli.main(["compile", "--output", str(output)]) == 0
    assert cli.main(["compile", "--check", "--output", str(output)]) == 0
    output.write_text(output.read_text().replace("epochs", "train_epoch"))
    capsys.readouterr()
    assert cli.main(["compile", "--check", "--output", str(output)]) == 3
    assert "is not up to date. Write it with `race compile`" in capsys.readouterr().err


def test_compiling_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    outputs = []
    for seed in ("1", "2", "3"):
        outputs.append(tmp_path / f"{seed}.yaml")
        subprocess.run(
            [sys.executable, "-m", "pipeline", "compile", "--output", outputs[-1]],
            env={"PATH": "", "HOME": str(tmp_path / seed), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
    assert len({path.read_bytes() for path in outputs}) == 1


def test_a_pipeline_compiled_from_smoke_wants_the_inputs_that_the_sample_stands_for(
    tmp_path: Path,
) -> None:
    import yaml

    output = tmp_path / "smoke.yaml"
    assert cli.main(["compile", "--config", "smoke", "--output", str(output)]) == 0
    spec = next(yaml.safe_load_all(output.read_text()))
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert {name for name, about in inputs.items() if "defaultValue" not in about} == {
        "race_url",
        "roberta_url",
        "bpe_url",
    }


def test_parameters_shows_each_with_its_value_as_p_takes_it(capsys) -> None:
    assert cli.main(["parameters", "--config", "smoke"]) == 0
    shown = dict(
        line[2:].split(" = ", 1)
        for line in capsys.readouterr().out.splitlines()
        if " = " in line and line[2:].split(" = ")[0] in parameters()
    )
    assert shown.keys() == parameters().keys()
    for name, text in shown.items():
        value = parameters()[name].parse(text)
        assert text == (value if isinstance(value, str) else json.dumps(value))
