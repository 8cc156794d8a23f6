"""The quality table in Markdown, and its place in docs/quality.md between two markers."""

from report import machine_line

REFERENCE = "gptqmodel-default"  # the gap is between this and the unquantized model
TEXTS = ("perplexity_a", "perplexity_b")


class PageError(Exception):
    """The page has no place for the table."""


def measured(result):
    return all(text in result for text in TEXTS)


def is_peer(result):
    return result["system"] != "ours"


def figure(perplexity):
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.1e}"


def gap_closed(result, reference, source, text):
    """The part of the reference's loss of perplexity that this result does not have: 1 is the unquantized model."""
    return (reference[text] - result[text]) / (reference[text] - source[text])


def best_peer(rows, text):
    """The peer's result with the lowest perplexity on this text; None where no peer has one."""
    peers = [row for row in rows if is_peer(row) and measured(row)]
    return min(peers, key=lambda row: row[text], default=None)


def gaps(result, reference, source):
    if reference is None:
        return ["", ""]
    return [f"{100 * gap_closed(result, reference, source, text):.0f} %" for text in TEXTS]


def seconds(result):
    """The time; in brackets where other work ran meanwhile."""
    text = f"{result['seconds']:.0f} s"
    return text if result["quiet"] else f"({text})"


def row(result, reference, source):
    if not measured(result):
        reason = result.get("failed") or result.get("evaluation_failed") or "not evaluated yet"
        return [result["label"], f"fails: {reason}".replace("|", "\\|"), "", "", "", "", "", "", ""]
    return [result["label"], *(figure(result[text]) for text in TEXTS), *gaps(result, reference, source),
            seconds(result), f"{result['cpu_seconds']:.0f} s", f"{result['peak_pss_bytes'] / 1e9:.2f} GB",
            f"{result['weight_bytes'] / 1e6:.0f} MB"]


def setting_table(label, rows, source):
    reference = next((row for row in rows if row["recipe"] == REFERENCE and measured(row)), None)
    first = [source["label"], *(figure(source[text]) for text in TEXTS), "100 %", "100 %", "", "", "", ""]
    lines = [f"### {label}", "",
             "| recipe | perplexity A | perplexity B | gap closed A | gap closed B | time | CPU time | peak memory "
             "| size |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
             f"| {' | '.join(first)} |"]
    return [*lines, *(f"| {' | '.join(row(result, reference, source))} |" for result in rows), ""]


def overview(document):
    """Every recipe at every setting, perplexity on A / B."""
    settings, source = document["settings"], document["source"]
    found = {(result["recipe"], result["setting"]): result for result in document["results"]}
    lines = ["| recipe | " + " | ".join(settings.values()) + " |", "|---|" + "---:|" * len(settings),
             f"| {source['label']} |" + f" {' / '.join(figure(source[text]) for text in TEXTS)} |" * len(settings)]
    for recipe, label in document["recipes"].items():
        cells = []
        for setting in settings:
            result = found.get((recipe, setting))
            cells.append("" if result is None else
                         " / ".join(figure(result[text]) for text in TEXTS) if measured(result) else "fails")
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def verdict(bundle, rows, text):
    """`bundle` beside the best peer: perplexities, the peer's name and who wins."""
    peer = best_peer(rows, text)
    if peer is None:
        return f"{figure(bundle[text])}, no peer"
    wins = "beats" if bundle[text] < peer[text] else "**does not beat**"
    return f"{figure(bundle[text])} {wins} {figure(peer[text])} ({peer['label']})"


def comparison(settings, by_setting):
    """Our bundles beside the best peer at each setting and on each text."""
    lines = ["| setting | recipe | text A | text B |", "|---|---|---|---|"]
    for setting, label in settings.items():
        for bundle in by_setting[setting]:
            if bundle["bundle"] and measured(bundle):
                cells = [verdict(bundle, by_setting[setting], text) for text in TEXTS]
                lines.append(f"| {label} | {bundle['label']} | {' | '.join(cells)} |")
    return [*lines, ""] if len(lines) > 2 else []


def refinement(results):
    """Whether coordinate descent kept its promise: on how many layers it raised the exact loss of the solve."""
    refined = [result["refinement"] for result in results if "refinement" in result]
    if not refined:
        return []
    layers, raised = sum(entry["layers"] for entry in refined), sum(entry["raised_layers"] for entry in refined)
    gain = sum(entry["mean_gain"] * entry["layers"] for entry in refined) / layers
    rows = sum(entry["raised_rows"] for entry in refined)
    least = min(entry["least_gain"] for entry in refined)
    return [f"Refinement of {layers} layers in {len(refined)} models lowered the exact loss by {100 * gain:.1f} % on",
            f"average, of no layer by less than {100 * least:.2f} %. Violations: it raised the loss of {raised} layers",
            f"and {rows} rows.", ""]


def versions(results):
    """What was compared, each version once."""
    found = {}
    for result in results:
        for package, version in result.get("versions", {}).items():
            if package not in ("python", "torch", "transformers", "program_sha256"):
                found.setdefault(package, set()).add(version.removeprefix("gptq-hpc "))
    return ", ".join(f"{package} {'/'.join(sorted(found[package]))}" for package in sorted(found))


def markdown(document, details=True):
    """The overview, our bundles beside the best peer and, with details, a table for each setting."""
    settings, results, source = document["settings"], document["results"], document["source"]
    by_setting = {setting: [result for result in results if result["setting"] == setting] for setting in settings}
    lines = [f"{document['workload']}; {machine_line(document['machine'])}; {versions(results)}.", "",
             *overview(document), *comparison(settings, by_setting), *refinement(results)]
    for setting, label in settings.items():
        if details and by_setting[setting]:
            lines += setting_table(label, by_setting[setting], source)
    lines += ["Perplexity of all rows is measured by `gptq-hpc eval` over the same windows of two texts held out from",
              "calibration, A / B."]
    if details:
        lines += ["Gap closed: the part of the difference between GPTQModel's default and the unquantized model that is",
                  "gone. Time is that of the whole process, in brackets where other work ran on the machine; CPU time is",
                  "what all its threads took, and hardly depends on that."]
    return "\n".join(lines) + "\n"


def markers(part):
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


def replace_in_page(path, part, text):
    """Puts `text` between the two markers of this part of the page; everything around them stays."""
    begin, end = markers(part)
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise PageError(f"{path} needs one line {begin} and below it one line {end}: the table goes between them")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
