"""The benchmark's table in Markdown."""


def machine_line(machine):
    bf16 = ", ".join(machine["bf16"]) or "no bf16 units"
    return f"{machine['cores']} cores of {machine['cpu']} ({bf16}), {machine['memory_bytes'] / 2**30:.0f} GiB of memory"


def cells(result):
    group = str(result["group_size"] or "")
    row = [result["label"], group, f"{result['weight_bytes'] / 1e6:.0f} MB",
           *(f"{result[key]:.2f}" if key in result else "" for key in ("perplexity_a", "perplexity_b"))]
    if "seconds" not in result:
        return [*row, "", "", ""]
    return [*row, f"{result['seconds']:.1f} s", f"{result['parts'].get('quantize_seconds', float('nan')):.1f} s",
            f"{result['peak_pss_bytes'] / 1e9:.2f} GB"]


def comparison(results):
    """Lines that put ours beside each peer at the same group size, where both have run."""
    lines = []
    ours = {result["group_size"]: result for result in results if result["name"] in ("ours-g128", "ours-g64")}
    for peer in results:
        mine = ours.get(peer["group_size"])
        if mine and not peer["name"].startswith("ours") and "perplexity_a" in peer and "perplexity_a" in mine:
            lines.append(
                f"- beside {peer['label']} (group {peer['group_size']}): {peer['seconds'] / mine['seconds']:.1f} times as "
                f"fast, {mine['peak_pss_bytes'] / peer['peak_pss_bytes']:.2f} of its memory, perplexity "
                f"{mine['perplexity_a']:.2f} / {mine['perplexity_b']:.2f} against {peer['perplexity_a']:.2f} / "
                f"{peer['perplexity_b']:.2f}")
    return lines


def markdown(document):
    results = document["results"]
    lines = [
        f"# {document['workload']}", "",
        f"    {document['command']}", "",
        f"{document['program']} on {document['ranks']} ranks; {machine_line(document['machine'])}.", "",
        "| system | group | size | perplexity A | perplexity B | time, whole process | quantization alone | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {' | '.join(cells(result))} |" for result in results), "",
        "Time runs from the start of the process to the saved model; memory is the sampled peak of the proportional set",
        "size, summed over all processes. Quantization alone is what each system says of itself. Perplexity of all rows",
        "is measured by `gptq-hpc eval` over the same windows of text held out from calibration.", "",
        *comparison(results), ""]
    loaded = [result["label"] for result in results if result.get("other_cores", 0) > 0.1]
    if loaded:
        lines += [f"**Not quiet**: other work ran on this machine when these were measured: {', '.join(loaded)}."]
    return "\n".join(lines).rstrip() + "\n"
