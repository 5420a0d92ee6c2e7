import argparse
import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import natural
from PIL import Image

import diffcodec as dc
import revmark_ref.cli
from diffcodec import cli, fidelity, report
from diffcodec.cli import main
from diffcodec.strength import Strength


def test_fidelity_writes_table_json_and_picture(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "fidelity",
        str(clip_file),
        "--sim",
        "revmark",
        "none",
        "--crf",
        "20",
        "30",
        "--size",
        "48",
        "--frames",
        "4",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "survival error" in shown
    assert "revmark" in shown
    data = json.loads((tmp_path / "o" / "fidelity.json").read_text())
    assert data["command"].startswith("diffcodec fidelity")
    assert data["clips"][0]["name"] == "moving.mp4"
    assert len(data["clips"][0]["sha256"]) == 64
    assert data["versions"]["libx264"].startswith("core")
    assert [(r["simulator"], r["crf"]) for r in data["rows"]] == [("revmark", 20), ("none", 20), ("revmark", 30), ("none", 30)]
    none = data["rows"][1]["figures"]
    assert none["skill"] == 0
    assert none["distortion_gap"] is None
    assert data["rows"][0]["steering"] is not None
    assert data["rows"][2]["steering"] is None
    assert 0 < data["rows"][0]["figures"]["chroma_survival_error"] < 1
    assert data["rows"][1]["figures"]["luma_skill"] == 0
    assert "chroma" in shown
    derived = data["rows"][0]["derivatives"]
    assert set(derived["bits"]) == {"sharpen", "blur", "noise"}
    assert derived["bits"]["sharpen"]["real"] > 0
    assert data["rows"][1]["derivatives"]["bits"]["blur"]["gradient"] is None  # no bits
    assert data["rows"][2]["derivatives"] is None
    assert data["settings"]["derivatives_crf"] == [20]
    picture = Image.open(tmp_path / "o" / "fidelity.png")
    assert min(picture.size) > 800
    assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 500
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["fidelity.json", "fidelity.png"]


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.webp"]
    for i, path in enumerate(paths):
        Image.fromarray(dc.color.to_8bit(natural(1, 1, 60, 70, seed=i)[0, 0]).permute(1, 2, 0).numpy()).save(path, lossless=True)
    return paths


def test_fidelity_of_pictures(photographs: list[Path], clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sims = ["--sim", "jpeg", "jpeg:rounding=cubic", "jpeg:quality=20"]
    command = ["fidelity", *map(str, photographs), str(clip_file), "--real", "libjpeg", *sims, "--quality", "30", "60", "--size", "48"]
    assert main([*command, "--out", str(tmp_path / "o")]) == 0
    shown = capsys.readouterr().out
    assert "libjpeg, 3 pictures" in shown
    assert "changing" not in shown
    data = json.loads((tmp_path / "o" / "fidelity.json").read_text())
    assert [(r["simulator"], r["quality"]) for r in data["rows"][:3]] == [(s, 30) for s in sims[1:]]
    exact, soft, fixed = (r["figures"] for r in data["rows"][:3])
    assert exact["error_cosine"] > 0.99999
    assert exact["survival_error"] < 1e-3
    assert 0.5 < soft["error_cosine"] < 0.9999
    assert fixed["error_cosine"] < 0.9  # its spec names a quality of its own
    assert data["rate_agreement"]["jpeg"]["median_relative_error"] < 0.5
    assert data["rows"][3]["steering"]["static"] > 1
    with Image.open(tmp_path / "o" / "fidelity.png") as picture:
        assert picture.size[0] > 800


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--real", "libjpeg", "--crf", "20"], "--crf does not apply to libjpeg"),
        (["--real", "libjpeg", "--preset", "slow"], "--preset"),
        (["--real", "libjpeg", "--derivatives", "26"], "--derivatives 26 is not among --quality 25 50 75 90"),
        (["--real", "libjpeg", "--quality", "0"], "0"),
        (["--real", "libjpeg", "--quality", "50.5"], "50.5"),
        (["--real", "libjpeg:quality=3"], "--quality"),
        (["--quality", "50"], "--quality does not apply to libx264"),
        (["--real", "libjpeg", "--frames", "2"], "this is a picture"),
        (["--real", "libjpeg"], "128, 128"),
        ([], "this is a picture"),
    ],
)
def test_fidelity_of_pictures_errors(
    arguments: list[str], words: str, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fidelity", str(photographs[0]), *arguments, "--out", str(tmp_path / "o")]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_fidelity_is_repeatable(clip_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        command = [
            "fidelity",
            str(clip_file),
            "--crf",
            "25",
            "--size",
            "native",
            "--frames",
            "3",
            "--no-picture",
            "--out",
            str(tmp_path / name),
        ]
        assert main(command) == 0
    a, b = (json.loads((tmp_path / n / "fidelity.json").read_text())["rows"] for n in ("a", "b"))
    assert a == b
    assert not (tmp_path / "a" / "fidelity.png").exists()


def test_progress_counts_what_is_done(clip_file: Path) -> None:
    clips = [report.load_clip(clip_file, 3, 32)]
    seen: list[str] = []
    report.run(clips, ["revmark", "none"], "libx264", [20.0, 30.0], steering_at=[20.0], progress=seen.append)
    assert len(seen) == report.pieces(1, ["revmark", "none"], "libx264", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4"], "no such file"),
        (["CLIP", "--sim", "h265"], "h265"),
        (["CLIP", "--sim", "revmark:crf=3"], "knows no CRF"),
        (["CLIP", "--sim", "jpeg:quality"], "option=value"),
        (["CLIP", "--real", "libx266"], "libx266"),
        (["CLIP", "--crf", "60"], "60"),
        (["CLIP", "--preset", "warp"], "warp"),
        (["CLIP", "--size", "big"], "big"),
        (["CLIP", "--size", "128"], "128, 128"),
        (["CLIP", "--frames", "0"], "got 0"),
        (["CLIP", "--frames", "41"], "41 frames"),
        (["CLIP", "--steering", "3"], "--steering 3"),
        (["CLIP", "--fps", "0"], "fps"),
        (["CLIP", "--real", "libx264:crf=40"], "--crf"),
        (["CLIP", "--real", "libx264:options=bf"], "mapping"),
        (["CLIP", "--start", "-5"], "-5"),
        (["CLIP", "--start", "38"], "has 40 frames; 8 from frame 38 on would end at 46"),
        (["CLIP", "--sim", "h264"], "did you mean 'x264'?"),
        (["CLIP", "--sim", "no.module:Layer"], "cannot be imported"),
        (["CLIP", "--size", "²"], "²"),
        (["CLIP", "--out", "CLIP"], "cannot make this folder"),
    ],
)
def test_fidelity_errors(arguments: list[str], words: str, clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(clip_file) if a == "CLIP" else a for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "o")]
    assert main(["fidelity", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.json"))


def test_demo_clips_are_real_files() -> None:
    paths = report.demo_clips()
    assert all(dc.video_info(p).frames > 28 for p in paths)


def test_demo_clips_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(FileNotFoundError, match=r"diffcodec\[demo\]"):
        report.demo_clips()


@pytest.mark.parametrize("codec", ["revmark", "jpeg:quality=20", "libx264:crf=35,preset=ultrafast", "libjpeg:quality=20", "none"])
def test_roundtrip(codec: str, clip_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    assert main(["roundtrip", str(clip_file), str(out), "--codec", codec, "--lossless", "--frames", "16"]) == 0
    x, y = dc.read_video(clip_file), dc.read_video(out)
    assert y.shape == x.shape
    assert dc.video_info(out).fps == 25
    assert 20 < dc.metrics.psnr(y[None], x[None]).item() < (float("inf") if codec == "none" else 45) or codec == "none"
    if codec == "none":
        assert torch.equal(x, y)
    if codec.startswith("libx264"):
        assert torch.equal(y[:16], dc.RealCodec(crf=35, preset="ultrafast")(x[None, :16])[0])


def test_roundtrip_errors(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = clip_file.read_bytes()
    for arguments, words in (
        ([clip_file, clip_file], "one file"),
        ([tmp_path / "no.mp4", tmp_path / "o.mp4"], "no such file"),
        ([clip_file, tmp_path / "no" / "o.mp4"], "does not exist"),
        ([clip_file, tmp_path / "o.xyz"], "o.xyz"),
        ([clip_file, tmp_path / "o.mp4", "--codec", "libx264:crf=77"], "77"),
        ([clip_file, tmp_path / "o.mp4", "--frames", "0"], "got 0"),
    ):
        assert main(["roundtrip", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    assert clip_file.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    dc.write_video(
        source, (natural(1, 20, 180, 320)[0] for _ in range(40)), preset="ultrafast"
    )  # much more than can be done before the signal
    process = subprocess.Popen(
        [sys.executable, "-m", "diffcodec.cli", "roundtrip", str(source), str(tmp_path / "out.mp4"), "--codec", "revmark"],
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits that it is ignored
    )  # fmt: skip
    for _ in range(600):  # until the hidden temporary file is there
        if any(p.name.startswith(".out") for p in tmp_path.iterdir()) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped" in error
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_command_is_installed() -> None:
    command = Path(sys.executable).parent / "diffcodec"
    if not command.exists():
        pytest.skip("diffcodec is not installed in this environment")
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, env=os.environ | {"COLUMNS": "100"})
    assert result.returncode == 0
    assert "fidelity" in result.stdout
    assert "roundtrip" in result.stdout


class Softer(dc.Layer):
    """A simulator of somebody else's."""

    def __init__(self, crf: float = 23.0) -> None:
        super().__init__()
        self.crf = Strength(crf, "crf", 0, 51)

    def distort(self, video, draw):  # type: ignore[no-untyped-def]
        return dc.GaussianBlur(float(draw["crf"][0]) / 20)(video)


class Shorter(Softer):
    """One that loses frames."""

    def distort(self, video, draw):  # type: ignore[no-untyped-def]
        return video[:, :1]


def test_files_folders_and_layers_of_others(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clip_file.parent
    common = ["--crf", "30", "--size", "32", "--frames", "2", "--steering", "--out", str(tmp_path / "o"), "--no-picture"]
    assert main(["fidelity", str(folder), "--sim", "none", *common]) == 0
    assert main(["fidelity", "--sim", "none", f"{__name__}:Softer", str(clip_file), *common]) == 0  # a file behind the simulators is a file
    assert "Softer" in capsys.readouterr().out
    data = json.loads((tmp_path / "o" / "fidelity.json").read_text())
    assert [r["simulator"] for r in data["rows"]] == ["none", f"{__name__}:Softer"]
    assert report.adopted(f"{__name__}:Softer", "libx264", {"crf": 30.0, "preset": "slow", "fps": 25.0}) == {"crf": 30.0}  # it follows
    assert main(["fidelity", str(clip_file), "--sim", f"{__name__}:Shorter", *common]) == 2
    assert "Shorter was given a video of shape" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["fidelity", str(empty), *common]) == 2
    assert "no videos in this folder" in capsys.readouterr().err


@pytest.mark.parametrize("real", ["libvpx-vp9", "libsvtav1", "libx265"])
def test_every_encoder_with_the_default_simulators(real: str, clip_file: Path, tmp_path: Path) -> None:
    preset = ["--preset", "placebo"] if real == "libx265" else []
    command = ["fidelity", str(clip_file), "--real", real, "--crf", "40", "--size", "32", "--frames", "2", "--steering", *preset]
    assert main([*command, "--no-picture", "--out", str(tmp_path)]) == 0


def test_what_is_printed(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "fidelity",
        str(clip_file),
        "--sim",
        "none",
        "--crf",
        "30",
        "--size",
        "32",
        "--frames",
        "2",
        "--steering",
        "--out",
        str(tmp_path),
    ]
    assert main([*command, "--no-picture", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out)["rows"][0]["simulator"] == "none"
    assert main([*command, "--no-picture", "--csv"]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[0].startswith("simulator,crf,survival_error")
    assert out.splitlines()[1].startswith("none,30,")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(command) == 0
    assert "no picture: it needs matplotlib" in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["fidelity", str(clip_file), *command[2:], "--no-picture"]) == 0
    for words in (["--version"], ["fidelity", "--help"], ["roundtrip", "--help"], ["leaderboard", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert "None" not in capsys.readouterr().out
    assert main(["completion", "bash"]) == 0
    assert "--no-picture" in capsys.readouterr().out


def test_the_module_runs() -> None:
    result = subprocess.run([sys.executable, "-m", "diffcodec", "--version"], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"diffcodec {dc.__version__}\n"


def test_roundtrip_takes_a_crf(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.mkv"
    for codec in ("libx264:preset=ultrafast", "x264:preset=ultrafast"):
        assert main(["roundtrip", str(clip_file), str(out), "--codec", codec, "--crf", "45", "--lossless", "--frames", "8"]) == 0
        assert dc.metrics.psnr(dc.read_video(out)[None], dc.read_video(clip_file)[None]).item() < 32
    assert main(["roundtrip", str(clip_file), str(out), "--codec", "libx264:crf=3", "--crf", "45"]) == 2
    assert "names a CRF, and --crf 45 another" in capsys.readouterr().err


def test_leaderboard(clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = tmp_path / "board.json"
    common = [str(clip_file), "--crf", "20", "30", "--size", "32", "--frames", "2", "--no-picture", "--out"]
    assert main(["fidelity", "--sim", "none", "jpeg", *common, str(tmp_path / "a")]) == 0
    assert main(["fidelity", "--sim", f"{__name__}:Softer", *common, str(tmp_path / "b")]) == 0
    assert main(["fidelity", "--sim", "none", "--preset", "slow", *common, str(tmp_path / "c")]) == 0
    results = [str(tmp_path / n / "fidelity.json") for n in "abc"]
    assert main(["leaderboard", "add", results[0], results[2], "--board", str(board)]) == 0
    assert main(["leaderboard", "add", results[1], "--board", str(board), "--name", "Softer", "--note", "a paper"]) == 0
    assert main(["leaderboard", "add", results[1], "--board", str(board), "--name", "Softer"]) == 0  # takes the place of the former
    data = json.loads(board.read_text())
    assert str(tmp_path) not in board.read_text()  # no folders of this machine
    assert sorted(len(b["entries"]) for b in data["boards"]) == [1, 3]  # other settings, another board
    capsys.readouterr()
    assert main(["leaderboard", "show", "--board", str(board)]) == 0
    shown = capsys.readouterr().out
    assert "Softer" in shown
    assert "1 clip of 2 x 32 x 32; libx264, slow, 25 fps; CRF 20 30" in shown
    for arguments, words in (
        (["add", str(board), "--board", str(board)], "not a result of 'diffcodec fidelity'"),
        (["add", results[0], "--board", str(board), "--name", "two"], "the result has 2: none, jpeg"),
        (["add", str(clip_file), "--board", str(board)], "no JSON file"),
        (["add", "--board", str(board)], "got none"),
        (["show", "--board", str(tmp_path / "no.json")], "no such file"),
        (["show", "--board", results[0]], "is not a leaderboard"),
    ):
        assert main(["leaderboard", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert json.loads(board.read_text()) == data


def test_leaderboard_shows_long_names_and_notes_in_full(
    clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    board = str(tmp_path / "board.json")
    common = [str(clip_file), "--crf", "30", "--size", "32", "--frames", "2", "--no-picture", "--steering", "--derivatives"]
    assert main(["fidelity", "--sim", "none", *common, "--out", str(tmp_path)]) == 0
    name = "a simulator whose name is much longer than a column of a narrow terminal would be"
    note = "A. Author and B. Author, A paper with a title [2026], https://example.org/a/long/path/to/it"
    assert main(["leaderboard", "add", str(tmp_path / "fidelity.json"), "--board", board, "--name", name, "--note", note]) == 0
    capsys.readouterr()
    assert main(["leaderboard", "show", "--board", board]) == 0
    shown = capsys.readouterr().out
    assert name in shown
    assert f"{name}: {note}\n" in shown
    assert "moving.mp4: source not given" in shown


def test_standard_set_has_a_board_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = tmp_path / "board.json"
    common = ["--sim", "none", "--crf", "30", "--frames", "2", "--size", "32", "--no-picture", "--steering", "--derivatives", "--out"]
    assert main(["fidelity", "--set", "standard", *common, str(tmp_path / "a")]) == 0
    result = json.loads((tmp_path / "a" / "fidelity.json").read_text())
    assert result["settings"]["set"] == "standard"
    assert len(result["clips"]) == 9
    assert all(c["source"] for c in result["clips"])
    assert main(["fidelity", str(report.demo_clips()[0]), *common, str(tmp_path / "b")]) == 0
    results = [str(tmp_path / n / "fidelity.json") for n in "ab"]
    assert main(["leaderboard", "add", *results, "--board", str(board)]) == 0
    assert [b["set"] for b in json.loads(board.read_text())["boards"]] == ["standard", None]
    capsys.readouterr()
    assert main(["leaderboard", "show", "--board", str(board)]) == 0
    shown = capsys.readouterr().out
    assert "set standard, 9 clips of 2 x 32 x 32; libx264" in shown
    assert "pan: diffcodec.synthetic.pan" in shown
    assert main(["fidelity", "--set", "standard", str(tmp_path), *common, str(tmp_path / "c")]) == 2
    assert f"got {tmp_path} as well" in capsys.readouterr().err
    assert main(["fidelity", "--set", "other", *common, str(tmp_path / "c")]) == 2
    assert "unknown --set 'other'; expected one of 'standard'" in capsys.readouterr().err


def every_parser() -> list[argparse.ArgumentParser]:
    """Those of both commands and of all their subcommands."""
    out = []
    for parser in (cli._parser(), revmark_ref.cli._parser()):
        verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        out += [parser, *verbs.choices.values()]
    return out


@pytest.mark.parametrize("parser", every_parser(), ids=lambda p: p.prog)
def test_help_gives_defaults_that_exist_as_they_are_typed(parser: argparse.ArgumentParser) -> None:
    text = re.sub(r"\s+", " ", parser.format_help())
    for shown in re.findall(r"\(default: ?([^)]*)\)", text):
        assert shown.strip() not in ("", "[]", "()", "None", "False"), shown
        assert not shown.startswith("["), shown
    for action in parser._actions:
        if (
            action.help
            and action.option_strings
            and isinstance(action.default, (str, int, float))
            and action.default not in ("", "==SUPPRESS==")
        ):
            assert action.default is False or "(default: " in text.split(action.option_strings[0] + " ", 2)[-1], action.option_strings


@pytest.mark.parametrize(
    "arguments", [["diffcodec", "--help"], ["diffcodec", "leaderboard", "show", "--board", "BOARD"], ["revmark_ref", "train", "--help"]]
)
def test_a_reader_that_leaves_ends_a_command_quietly(arguments: list[str]) -> None:
    board = Path(__file__).parents[1] / "benchmarks" / "results" / "leaderboard.json"
    read, write = os.pipe()
    os.close(read)  # as "| head" does after its lines
    words = [sys.executable, "-m", *(str(board) if a == "BOARD" else a for a in arguments)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # with it argparse itself drops what cannot be written
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=env)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_errors_of_the_system_name_path_and_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    missing, below = tmp_path / "nothere.json", tmp_path / "file" / "x"
    for run, arguments, words in (
        (main, ["leaderboard", "add", missing], f"{missing}: no such file; expected a file that 'diffcodec fidelity' wrote"),
        (main, ["leaderboard", "add", tmp_path], "cannot be read (Is a directory); expected"),
        (main, ["leaderboard", "show", "--board", tmp_path], "cannot be read"),
        (revmark_ref.cli.main, ["export", missing, tmp_path / "w.safetensors"], str(missing)),
        (revmark_ref.cli.main, ["train-detector", "--data", "synthetic", "--steps", "1", "--out", below], "a part of this path is a file"),
    ):
        assert run([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert "[Errno" not in error


def test_csv_has_no_words_for_numbers(clip_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report.run([report.load_clip(clip_file, 2, 32)], ["none"], "libx264", [30.0], steering_at=[])
    odd = dataclasses.replace(result.rows[0].figures, skill=float("inf"), error_cosine=float("nan"), distortion_gap=float("-inf"))
    rows = [dataclasses.replace(result.rows[0], figures=odd, steering=fidelity.Steering(float("inf"), 2.0))]
    cli._print_csv(dataclasses.replace(result, rows=rows))
    row = next(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row[k] for k in ("skill", "error_cosine", "distortion_gap", "steering_static")] == [""] * 4
    assert float(row["steering_changing"]) == 2
    assert float(row["survival_error"]) == odd.survival_error


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_of_both_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    for run, option in ((main, "roundtrip"), (revmark_ref.cli.main, "train-detector")):
        assert run(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert option in script
        assert not re.search(r"(?<!\\)`revmark", script)  # no quoted command that a shell would run
        if shell == "bash":
            assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=60, check=False).returncode == 0


def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["bench"]) == 0
    names = capfd.readouterr().out.split()
    assert {"cost", "h264", "watermark", "plot", "tables"} <= set(names)
    assert main(["bench", "plot", "--help"]) == 0
    assert "where pictures go" in capfd.readouterr().out
    assert main(["bench", "nothing"]) == 2
    assert "no benchmark 'nothing'" in capfd.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "plot"]) == 2
    assert "a clone or the source distribution" in capfd.readouterr().err
