"""The mechanism: draw, gradient, clip, noise, accountant."""

from tests.mutants.mutant import AGENT, MATES, NOISE, TRAINER, Mutant

MUTANTS = (
    # The mechanism
    Mutant(
        "noise: none is added",
        "common/privacy/noise.py",
        "(total + scale * noise.normal(total.size))",
        "(total + 0 * noise.normal(total.size))",
        NOISE + TRAINER,
    ),
    Mutant(
        "noise: two thirds of it",
        "common/privacy/noise.py",
        "scale = noise_multiplier * max_grad_norm",
        "scale = noise_multiplier * max_grad_norm * 2 / 3",
        NOISE + TRAINER,
    ),
    Mutant(
        "clip: none",
        "client/trainer.py",
        "factors = torch.clamp(bound / (_MARGIN * gradients.norms() + _TINY), max=1.0)",
        "factors = torch.ones_like(gradients.norms())",
        TRAINER,
    ),
    Mutant(
        "clip: to twice the norm",
        "client/trainer.py",
        "torch.clamp(bound / (",
        "torch.clamp(2 * bound / (",
        TRAINER,
    ),
    Mutant(
        "joint clip: the norm of the first half of the parameters",
        "client/unit_gradients.py",
        "torch.linalg.vector_norm(gradients, dim=1)",
        "torch.linalg.vector_norm(gradients[:, : gradients.shape[1] // 2], dim=1)",
        TRAINER + MATES,
    ),
    Mutant(
        "Poisson sampling: every unit takes part",
        "client/trainer.py",
        "np.flatnonzero(site.noise.mask(site.data.units.num_units, site.event.sample_rate)) for site in sites",
        "np.arange(site.data.units.num_units) for site in sites",
        TRAINER,
    ),
    Mutant(
        "Poisson sampling: one draw for all steps",
        "client/trainer.py",
        """        for _ in range(spec.event.steps):
            drawn = [
                np.flatnonzero(site.noise.mask(site.data.units.num_units, site.event.sample_rate)) for site in sites
            ]
""",
        """        drawn = [
            np.flatnonzero(site.noise.mask(site.data.units.num_units, site.event.sample_rate)) for site in sites
        ]
        for _ in range(spec.event.steps):
""",
        TRAINER,
    ),
    Mutant(
        "empty draw: no noise, no step",
        "client/trainer.py",
        "            total = clipped_sums(model, sites, drawn)\n",
        "            if not any(map(len, drawn)):\n                continue\n"
        "            total = clipped_sums(model, sites, drawn)\n",
        TRAINER,
    ),
    Mutant(
        "denominator: the units drawn in place of B",
        "client/trainer.py",
        "            gradient = np.stack([_noised(of_one, site) for of_one, site in zip(total, sites, strict=True)])\n",
        "            gradient = np.stack([_noised(of_one, site) for of_one, site in zip(total, sites, strict=True)])\n"
        "            gradient *= np.float32(spec.event.expected_batch / max(1, len(drawn[0])))\n",
        TRAINER,
    ),
    Mutant(
        "unit grouping: each record on its own",
        "client/trainer.py",
        "        yield Members(windows[part], slots[part] - first, shares[part], last - first)\n",
        "        alone = np.arange(len(windows[part]))\n"
        "        yield Members(windows[part], alone, np.ones_like(shares[part]), len(alone))\n",
        TRAINER,
    ),
    Mutant(
        "units: more than k records",
        "client/trainer.py",
        "    if counts.max(initial=0) > max_records:\n",
        "    if counts.max(initial=0) > max_records + 10_000:\n",
        TRAINER,
    ),
    Mutant(
        "units: always the same k records",
        "client/trainer.py",
        "part[noise.choose(len(part), max_records)] if",
        "part[:max_records] if",
        TRAINER,
    ),
    Mutant(
        "not finite: such a gradient is kept",
        "client/unit_gradients.py",
        "    return rows if bool(finite.all()) else torch.where(finite, rows, torch.zeros_like(rows))",
        "    return rows",
        TRAINER + MATES,
    ),
    Mutant(
        "arithmetic: a row's place in the batch depends on the others",
        "common/examples.py",
        "    rows = (keys % np.uint64(num_rows)).astype(np.int64)\n",
        "    rows = (np.arange(len(keys)) % num_rows).astype(np.int64)\n",
        (*MATES, "tests/common/test_examples.py"),
    ),
    Mutant(
        "state: the optimizer steps by a data-dependent rate",
        "client/trainer.py",
        "            optimizer.step()\n",
        "            optimizer._rate = spec.learning_rate * (1 + 1e-3 * len(drawn[0]))\n            optimizer.step()\n",
        TRAINER + MATES,
    ),
    Mutant(
        "randomness: a forked child goes on with its parent's keys",
        "common/privacy/noise.py",
        "    for source in list(_LIVE):\n        source._rekey()\n",
        "    for source in list(_LIVE):\n        source._pid = os.getpid()\n",
        NOISE,
    ),
    Mutant(
        "randomness: a constant key",
        "common/privacy/noise.py",
        "algorithms.AES256(os.urandom(32))",
        "algorithms.AES256(bytes(32))",
        NOISE,
    ),
    Mutant(
        "randomness: an agent takes noise that can be drawn again",
        "client/agent.py",
        "if type(noise) is not SecureNoise:",
        "if noise is None:",
        AGENT,
    ),
)
