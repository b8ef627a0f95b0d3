"""Figures of the README and the pages of docs/ are those of committed files, and no others stand there.

What a page says is formatted anew from the file; the page must hold it. The other way round, each number
of per cent or decibels on a page must be one of these, or a setting that is listed here as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
SETTINGS = {
    "docs/domains.md": {"80 %", "10 %", "95 %"},  # shares of the splits; of the intervals
    "docs/sweeps.md": {"95 %"},  # of the intervals
}
NUMBER = re.compile(r"[−+]?\d+(?:[.,]\d+)*(?: %| dB\b)")


def value(file: str, column: str, **where: Any) -> float:
    """The one value of a column where other columns have these values."""
    table = pd.read_csv(ROOT / file)
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    (found,) = table[column]
    return float(found)


def signed(number: float, digits: int = 1, unit: str = "%") -> str:
    return f"{number:+.{digits}f} {unit}".replace("-", "−")


def plain(number: float, digits: int, unit: str = "dB") -> str:
    return f"{abs(number):.{digits}f} {unit}"


def saving(domain: str, codec: str = "") -> str:
    file = f"experiments/sweep/{codec}bd_rate.csv"
    where = {"blend": "weighted", "anchor": "base", "interpolation": "akima"}
    return signed(value(file, "bd_rate_percent", domain=domain, **where))


def compared(target: str, method: str, column: str) -> str:
    adapters = method == "adapters"
    file = "experiments/forgetting/comparison.csv"
    where = {
        "blend": "weighted" if adapters else "adapted",
        "trained_on": "sketch+comic" if adapters else target,
        "steps": 250 if method.startswith("finetune") else 500,
    }
    number = value(file, column, target=target, method=method, **where)
    return f"{number:.2f}" if column == "decode_ratio" else signed(number)


def against(codec: str, anchor: str, metric: str = "psnr", domain: str = "natural") -> float:
    return value(
        "experiments/base_codecs/bd_rate.csv",
        "bd_rate_percent",
        **{"domain": domain, "codec": codec, "anchor": anchor},
        **{"metric": metric, "interpolation": "akima"},
    )


BUNDLED = ("bmshj2018_factorized_n64", "mbt2018_mean_n64", "zou2022_n64")


def base_codecs() -> set[str]:
    rows = {
        f"| {' | '.join(signed(against(codec, a)) for a in ('JPEG', 'WebP', 'AVIF'))} |"
        for codec in BUNDLED
    }
    assert len(rows) == len(BUNDLED)
    return rows


def readme() -> set[str]:
    table = (ROOT / "experiments/sketch_comic/table.txt").read_text()
    lines = {
        line for line in table.splitlines() if re.match(r" (natural|sketch|comic|clipart)", line)
    }
    assert len(lines) == 4
    summary = json.loads((ROOT / "experiments/sketch_comic/summary.json").read_text())
    gain = summary["domains"]["sketch"]["gain"]["weighted"]
    return (
        {line.rstrip() for line in lines}
        | base_codecs()
        | {
            " | ".join(saving(d, c) for d in ("sketch", "comic", "clipart", "natural"))
            for c in ("", "zou2022_n64/")
        }
        | {
            f"{compared('sketch', m, 'target_bd_rate')} | {compared('sketch', m, 'source_bd_rate')}"
            for m in ("adapters", "finetune_decoder", "finetune", "cawf")
        }
        | {plain(gain, 2), f"{100 * summary['gate_accuracy']:.1f} %"}
        | never_trained_on()
    )


def never_trained_on() -> set[str]:
    """The least and the most that unseen domains gain over one codec; what is lost over the default one."""
    table = pd.read_csv(ROOT / "experiments/supervised_adapters/bd_rate.csv")
    table = table[(table.kind == "unseen") & (table["mode"] == "weighted")].set_index("domain")
    quick, default = (table[table.codec == codec] for codec in (BUNDLED[0], BUNDLED[2]))
    rates, rate = quick.bd_rate_percent, default.bd_rate_percent.get
    assert (quick.seeds == 3).all() and len(rates) == 10 and (quick.bd_rate_high < 0).all()
    assert rates.idxmax() == "painting" and rates.idxmin() == "quickdraw"
    assert (default.bd_psnr_db > 0).sum() == 7 and default.bd_rate_percent.idxmax() == "astronomy"
    return {
        f"{signed(rates.max())} (paintings)",
        f"{signed(rates.min())} (quick strokes)",
        f"the sky need {signed(rate('astronomy'))} and emoji {signed(rate('emoji'))}",
    }


def codecs() -> set[str]:
    tested = (ROOT / "experiments/adapter_settings/mbt2018_mean_n64.txt").read_text()
    gains = {
        d: re.search(rf"^ {d} .*?\+(\d\.\d\d)", tested, re.M)
        for d in ("natural", "sketch", "comic")
    }
    return (
        base_codecs()
        | {
            plain(against(BUNDLED[1], BUNDLED[0]), 1, "%"),
            plain(against(BUNDLED[2], BUNDLED[1]), 1, "%"),
            plain(against(BUNDLED[2], BUNDLED[1], "ms_ssim"), 1, "%"),
            plain(against(BUNDLED[2], "AVIF", "ms_ssim"), 1, "%"),
        }
        | {f"{found[1]} dB" for found in gains.values() if found}
        | {saving(d, "zou2022_n64/") for d in ("sketch", "comic", "clipart", "natural")}
        | decode_parts()
        | all_rates()
    )


def all_rates() -> set[str]:
    """What a pack for all rates saves that was trained by half the steps of four packs."""
    file = "experiments/all_rates/table.csv"
    ways = (("all", 1000), ("each", 2000))
    return {
        signed(value(file, "bd_rate_percent", trained=t, steps=n, domain=d))
        for t, n in ways
        for d in ("sketch", "clipart")
    }


def decode_parts() -> set[str]:
    """Shares of decoding with ``zou2022_n64``."""
    file = "benchmarks/results/decode_parts.csv"
    parts = ("entropy networks, double precision", "entropy networks, single precision")
    parts += ("g_s: window attention", "g_s and gate: all else", "entropy decoding")
    return {f"{100 * value(file, 'share', codec=BUNDLED[2], part=p):.0f} %" for p in parts}


def domains() -> set[str]:
    results, changes = (
        f"experiments/added_domain/{name}.csv" for name in ("results", "before_after")
    )

    def psnr(run: str, mode: str = "weighted") -> float:
        return value(results, "psnr", run=run, domain="clipart", blend=mode)

    joint = value(results, "gain", run="from the start", domain="clipart", blend="weighted")
    extended = value(results, "gain", run="extended, replay", domain="clipart", blend="weighted")
    table = pd.read_csv(ROOT / changes)
    weighted = table[table.blend == "weighted"]
    worst = {run: -rows.difference.min() for run, rows in weighted.groupby("run")}
    return {
        plain(extended, 2),
        f"{100 * extended / joint:.0f} %",
        plain(worst["extended, replay"], 2),
        plain(worst["extended, no replay"], 2),
    }


def methods() -> set[str]:
    columns = [("sketch", "target"), ("sketch", "source"), ("comic", "target"), ("comic", "source")]
    rows = {
        " | ".join(compared(target, method, f"{of}_bd_rate") for target, of in columns)
        for method in ("adapters", "finetune_decoder", "finetune", "cawf")
    }
    ratios = {f"| {compared('sketch', m, 'decode_ratio')} |" for m in ("adapters", "cawf")}
    few = "experiments/few_images/results.csv"

    def gain(images: int, column: str, method: str, mode: str) -> float:
        return value(few, column, method=method, blend=mode, train_images=images)

    return (
        rows
        | ratios
        | {plain(gain(n, "gain", "adapters", "weighted"), 1) for n in (5, 294)}
        | {
            plain(gain(5, "source_gain", "finetune_decoder", "adapted"), 0),
            "0 % on natural in source mode",
        }
    )


def stored(codec: str, in_memory: bool) -> str:
    """What a pack of 64 domains costs over one of 3 in memory."""
    file, where = "benchmarks/results/stored.csv", dict[str, Any]()
    where |= {"codec": codec, "domains": 64, "in_memory": in_memory}
    assert 0.545 < value(file, "adapter_mib", mode="top1", **where) < 0.555
    cells = []
    for mode in ("weighted", "top1"):
        ratio, low, high = (
            value(file, column, mode=mode, **where)
            for column in ("ratio", "ratio_lower_quartile", "ratio_upper_quartile")
        )
        cells.append(f"{ratio:.2f} ({low:.2f}…{high:.2f})")
    more = signed(value(file, "more_mib", mode="top1", **where), 1, "|")
    return f"| {' | '.join(cells)} | {more}"


def everyday() -> set[str]:
    """What coding takes beside other codecs."""
    file = "benchmarks/results/everyday.csv"
    ways = {f"`{name}`": name for name in BUNDLED}
    ways |= {"WebP, method 6": "webp", "JPEG XL, effort 7": "jpegxl"}
    rows = set()
    for told, way in ways.items():
        encode, decode = (
            value(file, "ratio", part="image", what=what, way=way) for what in ("encode", "decode")
        )
        rows.add(f"| {told} | {encode:.2f} | {decode:.1f} |")
    starts = {"--help": "`lic-da --help`", "info": "`lic-da info`"}
    starts |= {
        "decompress": "one image of 768×512",
        "decompress --runtime onnx": "`--runtime onnx`",
    }
    rows |= {
        f"{told} | {value(file, 'ratio', part='start', way=f'lic-da {way}'):.2f} |"
        for way, told in starts.items()
    }
    compress, decompress = (
        value(file, "ratio", part="folder", what=what, way=way)
        for what, way in (("encode", "lic-da compress"), ("decode", "lic-da decompress"))
    )
    times = f"takes {compress:.1f} times as long to compress as by AVIF, and {decompress:.1f} times"
    return rows | {times}


def performance() -> set[str]:
    decoding = {}
    for codec in ("bmshj2018_factorized_n64", "zou2022"):
        file = f"benchmarks/results/{codec}.csv"
        for k in (1, 3, 9, 33, 65):
            ratio, low, high = (
                value(file, column, form="fold", domains=k)
                for column in ("ratio", "ratio_lower_quartile", "ratio_upper_quartile")
            )
            branches = value(file, "ratio", form="branches", domains=k)
            decoding[codec, k] = f"{ratio:.2f} ({low:.2f}…{high:.2f}) | {branches:.1f}"
    rows = {
        f"| {k} | {decoding['bmshj2018_factorized_n64', k]} | {decoding['zou2022', k]} |"
        for k in (1, 3, 9, 33, 65)
    }
    many = product((BUNDLED[0], BUNDLED[2]), (True, False))
    rows |= {stored(codec, in_memory) for codec, in_memory in many} | everyday()
    steps = pd.read_csv(ROOT / "benchmarks/results/training_cpu_no_amx.csv")
    for row in steps.itertuples():
        times = (
            f"{row.speedup:.1f} ({row.speedup_lower_quartile:.1f}…{row.speedup_upper_quartile:.1f})"
        )
        times = "1" if row.way == "straightforward" else times
        rows.add(f"| {row.median_s:.3f} | {times} | {row.step_mib:.0f} |")
    same = pd.read_csv(ROOT / "benchmarks/results/training_same.csv").groupby("seed")
    validation = -same.validation_difference_db.mean()
    rows.add(f"{validation.min():.3f} to {validation.max():.3f} dB")
    inputs = pd.read_csv(ROOT / "benchmarks/results/training_inputs.csv")
    return rows | {f"{100 * share:.1f} %" for share in inputs.share} | image_time()


def image_time() -> set[str]:
    file, figures = "benchmarks/results/image_time.csv", set()
    codecs = ("bmshj2018_factorized_n64", "mbt2018_mean_n64")
    for step in ("g_s", "g_a", "entropy decoding", "decode", "encode", "adapted"):
        cells = []
        for codec in codecs:
            ratio, low, high = (
                value(file, column, codec=codec, step=step)
                for column in ("ratio", "ratio_lower_quartile", "ratio_upper_quartile")
            )
            cells.append(f"{ratio:.2f} ({low:.2f}…{high:.2f})")
        figures.add(f"| {' | '.join(cells)} |")
    for codec in codecs:
        for step in ("g_s", "g_a"):
            before, after = (
                100 * value(file, column, codec=codec, step=step)
                for column in ("plain_of_peak", "of_peak")
            )
            figures.add(f"{before:.0f} % to {after:.0f} %")
    return figures


def images() -> set[str]:
    found = json.loads((ROOT / "benchmarks/results/damaged_images_60000.json").read_text())
    blank = [int(n) for n in re.findall(r"blank (\d+)%", " ".join(found["wrong"]))]
    return {f"{min(blank)} to {max(blank)} %"}


def efforts() -> set[str]:
    table = pd.read_csv(ROOT / "experiments/same_decoder/effort_table.csv")
    percents = ("cost_percent", "bpp_percent", "cost_base_percent")
    rows = set()
    for row in table.to_dict("records"):
        cost, rate, base = (signed(row[name]) for name in percents)
        gains = [signed(row[name], 2, "dB") for name in ("psnr_db", "psnr_base_db")]
        ratio = f"{row['encode_ratio']:.0f}"
        cells = (row["domain"], row["effort"], cost, rate, gains[0], base, gains[1], ratio)
        rows.add(f"| {' | '.join(map(str, cells))} |")
    assert len(rows) == 12 and (table.worst_cost_percent <= 0).all()
    sliced = pd.read_csv(ROOT / "experiments/same_decoder/effort_zou2022_n64_table.csv")
    assert (sliced.worst_cost_percent < 0).all()
    most = sliced[sliced.effort == 3]
    return rows | {
        f"{signed(cost)} on {domain}"
        for domain, cost in zip(most.domain, most.cost_percent, strict=True)
    }


def method() -> set[str]:
    table = "experiments/same_decoder/chosen_table.csv"

    def found(column: str, domain: str = "all") -> float:
        return value(table, column, domain=domain)

    assert found("chosen_loses_0.005") == 0 and found("images") == 575
    return (
        efforts()
        | {
            f"{plain(found('chosen_gain', domain), 2)} instead of {plain(found('gate_gain', domain), 2)}"
            for domain in ("all", "clipart")
        }
        | {f"{100 * found('gate_loses_0.005'):.1f} %"}
        | unseen()
        | regions()
        | points()
    )


def runtime() -> set[str]:
    compared = pd.read_csv(ROOT / "benchmarks/results/runtime.csv")
    rows = {
        f"| `{row.codec}` | {row.images} | {row.symbols_identical} | {row.y_hat_identical} "
        f"| {row.within_one_level} | {100 * row.share:.4f} % |"
        for row in compared.itertuples()
    }
    installed = "benchmarks/results/runtime_environment.csv"
    total = value(installed, "megabytes", package="all but pip and setuptools")
    started = pd.read_csv(ROOT / "benchmarks/results/runtime_startup.csv")
    assert tuple(dict.fromkeys(started.codec)) == BUNDLED
    times = set()
    for process, own in started.groupby("process"):
        cells = [
            f"{row.median_s:.1f} ({row.ratio_to_import_torch:.2f})" for row in own.itertuples()
        ]
        times.add(f"| `{process}` | {' | '.join(cells)} |")
    return rows | times | {f"{total:.0f} MB"}


def regions() -> set[str]:
    """What a v per region changes, and its cost, over the default codec and over the quick one."""
    figures = set()
    for folder, words in (("zou2022_n64/", "clip art, never seen,"), ("", "clip art")):
        table = f"experiments/regions/{folder}table.csv"
        assert value(table, "images", domain="page") == 19

        def change(domain: str, table: str = table) -> str:
            return signed(value(table, "change", domain=domain), 2, "dB")

        figures |= {
            f"it gains {change('page')[1:]}",
            f"sketches by {change('sketch')}, comics by {change('comic')}",
            f"and {words} by {change('clipart')}",
            f"{value(table, 'cost', domain='page'):.2f} times",
        }
    return figures


def unseen() -> set[str]:
    table = "experiments/unseen/table.csv"

    def found(domain: str, column: str) -> float:
        return value(table, column, domain=f"all {domain}")

    losers = [found("reported", f"{mode}_loses_percent") for mode in ("gate", "calibrated")]
    gains = {
        f"{found(domain, 'calibrated_gain'):.2f} dB instead of {found(domain, 'gate_gain'):.2f} dB"
        for domain in ("reported", "seen")
    }
    return gains | {f"{share:.1f} %" for share in losers} | {"more than 0.05 dB"}


def points() -> set[str]:
    table = "experiments/points/table.csv"

    def gain(domain: str, share: float = 1.0) -> str:
        return signed(value(table, "gain_db", domain=domain, share=share), 2, "dB")

    shares = pd.read_csv(ROOT / "experiments/points/shares.csv").set_index("domain").share
    assert shares.to_dict() == {"natural": 0, "sketch": -0.25, "comic": 0}
    latents = {
        f"{signed(value(table, 'latent_percent', domain=domain, share=1.0))} on {domain}"
        for domain in ("natural", "sketch")
    }
    gains = {f"{gain(d)} on {d}" for d in ("natural", "sketch", "comic")}
    return latents | gains | {f"{gain('clipart')} on clip art", f"gains {gain('sketch', -0.25)}"}


FIGURES: Mapping[str, Callable[[], set[str]]] = {
    "README.md": readme,
    "docs/codecs.md": codecs,
    "docs/domains.md": domains,
    "docs/images.md": images,
    "docs/method.md": method,
    "docs/methods.md": methods,
    "docs/performance.md": performance,
    "docs/runtime.md": runtime,
}


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_a_page_are_those_of_committed_files(page: str) -> None:
    text = (ROOT / page).read_text()
    figures = FIGURES.get(page, set)()
    assert {figure for figure in figures if figure not in text} == set()
    covered = " ".join(figures)
    unknown = {n for n in NUMBER.findall(text) if n not in covered} - SETTINGS.get(page, set())
    assert unknown == set(), "no committed file is named for these"


def test_the_tables_of_base_codecs_are_those_of_its_files() -> None:
    text = (ROOT / "experiments/base_codecs/README.md").read_text()
    for metric, domain in product(("psnr", "ms_ssim"), ("natural", "sketch", "comic", "clipart")):
        for n, codec in enumerate(BUNDLED):
            others = ("JPEG", "WebP", "AVIF", *BUNDLED[: min(n, 2)])
            rates = [signed(against(codec, other, metric, domain)) for other in others]
            assert f"| {domain} | `{codec}` | {' | '.join(rates)} |" in text


def test_the_table_of_the_ablation_is_that_of_its_file() -> None:
    text = (ROOT / "experiments/ablation/README.md").read_text()
    gains = pd.read_csv(ROOT / "experiments/ablation/gains.csv").set_index(["variant", "domain"])
    (default, *_), domains = gains.index[0], ("natural", "sketch", "comic", "clipart")
    names = {  # as the page calls them
        default: "default: published sites, full kernels, γ 0.01, 500 steps",
        "the first parallel one alone": "the first parallel site alone",
        "the serial one alone": "the serial site alone",
        "the last parallel one alone": "the last parallel site alone",
        "reads y, v signalled": "gate reads y, v signalled",
        "γ 0.01, not clamped": "not clamped, γ 0.01",
        "1000 steps": "1,000 steps",
        "2000 steps": "2,000 steps",
    }
    for variant in dict.fromkeys(v for v, _ in gains.index if "γ" not in v or v in names):
        own = [gains.loc[(variant, domain)] for domain in domains]
        cells = " | ".join(f"{row.gain:+.2f}".replace("-", "−") for row in own)
        line = f"| {names.get(variant, variant)} | {own[0].trained:,} | {cells} |"
        assert line in text
    three = [f"γ {g}" for g in ("0.001", "0.1", "0.5")]
    columns = [" / ".join(f"{gains.gain[v, d]:+.2f}" for v in three) for d in domains]
    assert f"| {' | '.join(columns)} |" in text


def forgotten(row: Any) -> str:
    """A line of the method table for one method and target."""
    jointly = row.method != "adapters" and "+" in row.trained_on
    usual = {"finetune_decoder": 250, "finetune": 250}.get(row.method, 500)
    name = f"`{row.method}`"
    name += {"weighted": ", weighted", "oracle": ", oracle", "adapted": ""}[row.blend]
    name += ", jointly" if jointly else ""
    name += (
        f", {row.steps:,} steps"
        if not jointly and (row.steps != usual or row.method == "scratch")
        else ""
    )
    rates = []
    for rate, decibels in (
        (row.target_bd_rate, row.target_bd_psnr),
        (row.source_bd_rate, row.source_bd_psnr),
    ):
        gained = "" if pd.isna(decibels) else f"; {signed(decibels, 2, 'dB')}"
        rates.append(f"no BD-rate{gained}" if pd.isna(rate) else signed(rate))
    rates[1] += " (0 in source mode)" if row.method == "cawf" else ""
    change = row.psnr_of_old_streams_change
    shown = "the same images" if row.method == "cawf" else signed(change, 2, "dB")
    cells = [
        *(name, *rates, f"{row.old_streams_decoded} of {row.images}"),
        "–" if pd.isna(change) else shown,
        *(f"{row.same_streams} of {row.images}", f"{row.trained_per_domain:,}"),
        f"{row.stored_per_domain:,}",
        "–" if pd.isna(row.decode_ratio) else f"{row.decode_ratio:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("target", ["sketch", "comic"])
def test_the_method_tables_of_forgetting_are_those_of_its_file(target: str) -> None:
    text = (ROOT / "experiments/forgetting/README.md").read_text()
    table = pd.read_csv(ROOT / "experiments/forgetting/comparison.csv")
    long = table.method.eq("adapters") & table.blend.eq("oracle") & table.steps.gt(500)
    own = table[table.target.eq(target) & table.qualities.eq(4) & ~long]
    lines = {forgotten(row) for row in own.itertuples()}
    assert len(lines) == len(own) > 8
    assert {line for line in lines if line not in text} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
