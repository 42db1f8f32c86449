"""The scale of ranks on paper: python3 docs/ranks-model.py prints the table of docs/ranks.md. Nothing in it is measured.

A pass forward and backward of n parameters over T tokens takes 6nT/(flops * use) seconds; a base step is one, a meta step of
SAMA 5/3 (one for the meta gradient, two thirds for the two perturbed passes). A reduction is a ring inside a host, then each
card's part over the network: 2(g-1)/g S/local + 2(N-1)/N (S/nics)/network, and latency. What two thirds of a pass (its
backward part) cover of a reduction is hidden, but for the last bucket; so of joined meta gradients. The library has buckets on
the host alone so far: on devices it reduces behind the pass, and less is hidden than here."""
from math import ceil, log2

FLOPS, LOCAL, NETWORK, CARDS = 989e12, 370e9, 45e9, 8


def reduction(size, cards, nics):
    hosts, inside = ceil(cards / CARDS), min(cards, CARDS)
    seconds = 2 * (inside - 1) / inside * size / LOCAL + 6 * 4e-6
    if hosts > 1:
        seconds += 2 * (hosts - 1) / hosts * size / nics / NETWORK + 2 * ceil(log2(hosts)) * 8e-6
    return seconds


def efficiencies(n, tokens, use, width, last, cards, nics):
    """Of data-parallel training, and of SAMA with joined and local meta gradients at K = 1 and 10."""
    one = 6 * n * tokens / (FLOPS * use)
    whole = reduction(n * width, cards, nics)
    exposed = max(whole - 2 / 3 * one, min(1.0, last / (n * width)) * whole)
    small = reduction(4e5, cards, nics)

    def sama(k, meta):
        work = (k + 5 / 3) * one
        return work / (work + k * exposed + meta + small)

    return one, whole, one / (one + exposed), sama(1, exposed), sama(10, exposed), sama(1, 0.0)


print("| model, NICs of 400 Gb/s a host | cards | pass, ms | reduction, ms | data-parallel | K = 1 | K = 10 | K = 1, Local |")
print("|---|---|---|---|---|---|---|---|")
for name, n, tokens, use, width, last in [
    ("BERT-base, float32, 32 x 128", 110e6, 4096, 0.3, 4, 94e6),
    ("7B, float32 gradients, 4 x 2048", 7e9, 8192, 0.4, 4, 25e6),
]:
    for nics in (8, 1):
        for cards in (8, 64, 256, 1024):
            one, whole, plain, k1, k10, local = efficiencies(n, tokens, use, width, last, cards, nics)
            print(f"| {name}, {nics} | {cards} | {one * 1e3:.0f} | {whole * 1e3:.1f} | {plain:.2f} | {k1:.2f} | {k10:.2f} | {local:.2f} |")
