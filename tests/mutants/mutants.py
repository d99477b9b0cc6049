"""The ways in which the guarantee can be broken in one place, and the tests that must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; with `new` in its place, at least one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


TRAINER = ("tests/client/test_trainer.py", "tests/client/test_trainer_units.py", "tests/client/test_trainer_noise.py")
MATES = ("tests/client/test_trainer_mates.py", "tests/client/test_trainer_isolation.py")
NOISE = ("tests/common/privacy/test_noise.py",)
AGENT = (
    "tests/client/test_agent.py",
    "tests/client/test_agent_metrics.py",
    "tests/client/test_agent_head.py",
    "tests/client/test_hostile_server.py",
)
LEDGER = ("tests/client/test_ledger.py", "tests/client/test_ledger_states.py")
BEHIND = ("tests/client/test_ledger_behind.py", "tests/client/test_ledger_restored.py")
CHAIN = ("tests/client/test_ledger_chain.py",)
FUSED = ("tests/client/test_fused.py",)
BOUNDS = ("tests/client/test_fused_bounds.py",)
TAGGED = ("tests/client/test_fused_tokens.py",)
FROZEN = ("tests/common/test_frozen.py", "tests/common/test_prefix.py", "tests/client/test_engines.py")
POLICY = ("tests/client/test_policy.py",)
FOREIGN = ("tests/client/test_foreign_method.py",)
INSTALLED = ("tests/common/test_installed_methods.py",)
METRICS = ("tests/client/test_evaluation.py", "tests/common/test_classification.py")
SPLIT = ("tests/client/test_split.py", "tests/client/test_data.py")
LABELS = ("tests/common/test_multilabel.py",)
ENTITIES = ("tests/common/test_entities.py",)
JUDGES = ("tests/client/test_evaluate_only.py",)
READING = ("tests/client/test_reading.py",)
FIGURES = ("tests/common/privacy/test_accountant.py", "tests/common/privacy/test_horizon.py")

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
    # The agent and the ledger
    Mutant(
        "reserve: after the work",
        "client/agent.py",
        "        reservation = self._ledger.reserve(body.plan_digest, body.round, kind, request.sha256)\n"
        "        if isinstance(reservation, Stored):",
        "        early = compute(ReplyBody(code=Code.OK, plan_digest=body.plan_digest, round=body.round))\n"
        "        reservation = self._ledger.reserve(body.plan_digest, body.round, kind, request.sha256)\n"
        "        compute = lambda _: early  # noqa: E731\n"
        "        if isinstance(reservation, Stored):",
        AGENT,
    ),
    Mutant(
        "reserve: not durable",
        "client/ledger_file.py",
        '            connection.execute("COMMIT")\n',
        '            connection.execute("ROLLBACK")\n',
        LEDGER,
    ),
    Mutant(
        "refusal: a plan over budget is approved",
        "client/policy.py",
        "    if committed.epsilon > budget.epsilon or committed.delta > budget.delta:",
        "    if committed.epsilon > 100 * budget.epsilon or committed.delta > 100 * budget.delta:",
        POLICY + LEDGER,
    ),
    Mutant(
        "refusal: a sampling rate over the policy's",
        "client/rules.py",
        "    if sample_rate > min(limit, 1.0):",
        "    if sample_rate > 1e9:",
        POLICY,
    ),
    Mutant(
        "methods: one that the policy does not list is imported and run",
        "client/rules.py",
        "    elif plan.method.kind not in policy.methods:\n",
        "    elif not policy.methods:\n",
        FOREIGN,
    ),
    Mutant(
        "methods: imported before the policy is asked",
        "client/rules.py",
        "    horizon, local_steps = plan.training.horizon, plan.training.local_steps\n",
        "    horizon, local_steps = plan.training.horizon, plan.training.local_steps\n    _allow_method(plan)\n",
        FOREIGN,
    ),
    Mutant(
        "methods: a name that looks like one of privet's own",
        "common/methods/installed.py",
        "    if lookalikes:\n",
        "    if not name:\n",
        INSTALLED,
    ),
    Mutant(
        "methods: the hook is given the sum before the noise",
        "client/trainer.py",
        "gradient = spec.adjust(gradient, model.read().reshape(shape), start.reshape(shape))",
        "gradient = spec.adjust(\n"
        "                    (total / spec.event.expected_batch).astype(np.float32), model.read(), start)",
        FOREIGN,
    ),
    Mutant(
        "methods: what the hook gives is not looked at",
        "common/methods/checked.py",
        "        if not bool((abs(found) < math.inf).all()):\n",
        "        if not found.shape:\n",
        (*FOREIGN, "tests/common/test_checked_methods.py"),
    ),
    Mutant(
        "refusal: an unapproved plan is trained",
        "client/agent.py",
        '        if row.admission.decision != "approved" or row.admission.event is None:',
        "        if row.admission.event is None:",
        AGENT,
    ),
    Mutant(
        "refusal: another federation's plan is taken",
        "client/agent.py",
        "        if plan.name != self._federation:",
        "        if not plan.name:",
        AGENT,
    ),
    Mutant(
        "horizon: one round more",
        "client/ledger_events.py",
        "        return row.admission.training_rounds\n",
        "        return row.admission.training_rounds + 1\n",
        LEDGER + AGENT,
    ),
    Mutant(
        "horizon: evaluations without end",
        "client/ledger_events.py",
        "        return row.admission.num_evaluations\n",
        "        return 10_000\n",
        LEDGER + AGENT,
    ),
    Mutant(
        "stored reply: trained anew for the same request",
        "client/agent.py",
        "            return self._headed(_stored(reservation))",
        "            return self._headed(compute(_stored(reservation).body))",
        AGENT,
    ),
    Mutant(
        "stored reply: sent without being stored",
        "client/agent.py",
        "        self._ledger.store(reservation.event_id, pack(reply))  # durable before it is sent\n",
        "",
        AGENT,
    ),
    Mutant(
        "lost round: run again",
        "client/ledger_events.py",
        '    if known["state"] != "stored":\n        raise RefusedError(',
        '    if known["state"] != "stored":\n        return New(event_id=known["id"])\n        raise RefusedError(',
        LEDGER + AGENT,
    ),
    Mutant(
        "altered request: answered from the store",
        "client/ledger_events.py",
        '    if known["request_sha256"] != request_sha256:',
        '    if not known["request_sha256"]:',
        LEDGER + AGENT,
    ),
    Mutant(
        "altered request: a digest that leaves out the arrays' bytes",
        "common/messages.py",
        "        state.update(array.tobytes())\n",
        "",
        ("tests/common/test_messages.py", *AGENT),
    ),
    Mutant(
        "digest check: any base model",
        "common/base.py",
        "    if found != sha256:",
        "    if not found:",
        ("tests/common/test_base.py", *AGENT),
    ),
    Mutant(
        "digest check: any plan text under a digest",
        "client/agent.py",
        "        if plan.digest != body.plan_digest or plan.canonical() != body.plan:",
        "        if not plan.digest:",
        AGENT,
    ),
    Mutant(
        "digest check: any initial adapter",
        "client/agent.py",
        "        if prepared.initial_digest != body.adapter_digest:",
        "        if not prepared.initial_digest:",
        AGENT,
    ),
    Mutant(
        "digest check: weights of any size",
        "client/agent.py",
        "        prepared.received(round).check(request.arrays)\n",
        "        prepared.received(round)\n",
        AGENT,
    ),
    Mutant(
        "rollback: a newer head is met with a shrug",
        "client/ledger.py",
        '                note(db, "server", head)\n',
        "                pass\n",
        BEHIND + AGENT,
    ),
    Mutant(
        "rollback: evidence does not stop a reservation",
        "client/ledger_events.py",
        "    allow(db, where)\n",
        "",
        BEHIND,
    ),
    Mutant(
        "rollback: the agent does not look at the server's head",
        "client/agent.py",
        "            self._ledger.meet(unseal(body.head, self._site.data.id))\n",
        "            unseal(body.head, self._site.data.id)\n",
        AGENT,
    ),
    Mutant(
        "chain: a link is not compared",
        "client/chain.py",
        '    if row["seq"] != seq or bytes(row["previous"]) != previous or bytes(row["hash"]) != digest:',
        '    if row["seq"] != seq:',
        CHAIN,
    ),
    # What leaves
    Mutant(
        "codes: an exception's own words",
        "client/agent.py",
        "        except Exception as error:  # fails closed: a fixed code and nothing else leaves\n",
        "        except ZeroDivisionError as error:\n",
        AGENT,
    ),
    Mutant(
        "codes: one for data without a known label",
        "client/agent.py",
        "        prepared = self._ready(row, request, body.round)\n\n        def update(",
        "        prepared = self._ready(row, request, body.round)\n"
        "        if not (prepared.train.labels >= 0).any():\n"
        '            raise RefusedError(Code.UNAVAILABLE, "nothing to train on")\n\n        def update(',
        AGENT,
    ),
    Mutant(
        "head: in clear",
        "client/head.py",
        "    return base64.b64encode(nonce + _cipher(data_id).encrypt(nonce, plain, _INFO)).decode()",
        "    return base64.b64encode(nonce + plain + bytes(_TAG)).decode()",
        ("tests/client/test_head.py",),
    ),
    # Metrics
    Mutant(
        "metrics: no noise",
        "client/evaluation.py",
        "    return noised(exact_cells(trainer, arrays, examples, event.release), event, noise)",
        "    return exact_cells(trainer, arrays, examples, event.release).astype(np.float32)",
        METRICS,
    ),
    Mutant(
        "metrics: several labels without the root of their number",
        "common/tasks/label_counts.py",
        "    return int(GRID / math.sqrt(num_labels)) / GRID",
        "    return 1.0",
        LABELS,
    ),
    Mutant(
        "metrics: several labels, a unit's records added up",
        "common/tasks/label_counts.py",
        "(table * part // sizes[first : first + block, None])",
        "(table * part)",
        LABELS,
    ),
    Mutant(
        "metrics: several labels, those together not shared out over labels",
        "common/tasks/label_counts.py",
        "// (sizes * num_labels)",
        "// sizes",
        LABELS,
    ),
    Mutant(
        "metrics: an unknown label among several counts as no label",
        "common/tasks/label_counts.py",
        "    sound = known(targets) & np.isfinite(logits).all(axis=1)",
        "    sound = np.isfinite(logits).all(axis=1)",
        LABELS,
    ),
    Mutant(
        "loss: the mean over the batch, with several labels",
        "common/tasks/loss.py",
        "    losses = each.mean(dim=1)",
        "    losses = each.mean(dim=1) / len(each)",
        LABELS,
    ),
    Mutant(
        "loss: class weights divided by those of the batch",
        "common/tasks/loss.py",
        "        losses = losses * class_weights.to(logits)[labels]",
        "        losses = losses * class_weights.to(logits)[labels] / class_weights.to(logits)[labels].mean()",
        LABELS,
    ),
    Mutant(
        "loss: one unknown label among several is passed over",
        "common/tasks/multilabel.py",
        "                found[row] = UNKNOWN",
        "                found[row, [index for index in indices if index >= 0]] = 1",
        LABELS,
    ),
    Mutant(
        "metrics: on the units that were trained on",
        "client/agent.py",
        "prepared.validation, event, noise",
        "prepared.train, event, noise",
        AGENT,
    ),
    Mutant(
        "split: by the order of the file",
        "client/split.py",
        "    return points < np.uint64(",
        "    return np.arange(len(points), dtype=np.uint64) * np.uint64(2**40) < np.uint64(",
        SPLIT,
    ),
    Mutant(
        "split: records are told otherwise under an approved plan",
        "client/ledger_rows.py",
        "    allow_reading(data, row.reading)\n",
        "",
        READING,
    ),
    Mutant(
        "split: how records are told is not kept with the approval",
        "client/ledger_rows.py",
        '        "reading": written(site.data),\n',
        '        "reading": None,\n',
        READING,
    ),
    Mutant(
        "split: how records are told may be altered in the ledger",
        "client/chain.py",
        '        **({} if row["reading"] is None else {"reading": json.loads(row["reading"])}),\n',
        "",
        CHAIN,
    ),
    Mutant(
        "split: the separator of lists counts for nothing",
        "client/reading.py",
        '_LISTS = ("jsonl", "parquet", "database")',
        "_LISTS = ()",
        READING,
    ),
    Mutant(
        "metrics: entities, a unit's counts are not clipped",
        "common/tasks/entities.py",
        "np.maximum(sizes * bound, np.sqrt(squares) * _MARGIN)",
        "np.maximum(sizes * bound, 0 * squares)",
        ENTITIES,
    ),
    Mutant(
        "metrics: entities, each cell is clipped by itself",
        "common/tasks/entities.py",
        "        squares += column**2\n",
        "        squares = np.maximum(squares, column**2)\n",
        ENTITIES,
    ),
    Mutant(
        "metrics: entities, that there is no text shows in the code",
        "common/tasks/entities.py",
        "table.reshape(len(table), table.shape[1] // 3, 3)",
        "table.reshape(len(table), -1, 3)",
        ("tests/client/test_judging_neighbours.py",),
    ),
    Mutant(
        "loss: the mean over the words of the batch",
        "common/tasks/token_loss.py",
        "losses.sum(dim=1) / counted.clamp(min=1) * weights",
        "losses.sum(dim=1) / counted.sum().clamp(min=1) * weights",
        ("tests/common/test_tagged.py",),
    ),
    Mutant(
        "judges: rounds of a site that only evaluates",
        "client/policy.py",
        "        return 0 if self.evaluate_only else self.horizon\n",
        "        return self.horizon\n",
        JUDGES,
    ),
    Mutant(
        "judges: a site changes its part under an approved plan",
        "client/policy.py",
        "    allow_part(site, plan.name, admission.evaluate_only)\n",
        "",
        JUDGES,
    ),
    Mutant(
        "judges: the same number twice, with another draw",
        "client/ledger_events.py",
        "    return Stored(reply=stored_reply(known, where))",
        '    return New(event_id=known["id"]) if known["kind"] == "evaluate" else Stored(stored_reply(known, where))',
        ("tests/client/test_judging_neighbours.py",),
    ),
    Mutant(
        "compression: every value is rounded by the same draw",
        "common/compression.py",
        "rounding.uniform(len(values)) < ",
        "np.full(len(values), rounding.uniform(1)) < ",
        ("tests/common/test_compression.py",),
    ),
    Mutant(
        "compression: a stored update is rounded anew",
        "common/messages.py",
        "            return Reply(ReplyBody.model_validate_json(body), coded=_stored(form, load(data)))\n",
        "            from privet.common.compression import decode\n"
        "            from privet.common.privacy.noise import SecureNoise\n\n"
        "            coded = _stored(form, load(data))\n"
        "            coded = encode(coded.kind, decode(coded), SecureNoise())\n"
        "            return Reply(ReplyBody.model_validate_json(body), coded=coded)\n",
        ("tests/client/test_agent_compression.py",),
    ),
    Mutant(
        "schedule: the noise is that of the rounds with the whole rate",
        "client/policy.py",
        "    steps = training.horizon * training.local_steps\n",
        "    steps = (training.horizon - training.warmup_rounds) * training.local_steps\n",
        POLICY,
    ),
    Mutant(
        "data: one list that is no text hides the whole file",
        "common/tables.py",
        "    values, text = scalars(array.values, codec)\n",
        "    values, text = array.values.to_pylist(), as_text\n",
        LABELS,
    ),
    Mutant(
        "data: texts below a damaged comment are the patient's above",
        "common/sequences.py",
        "            said = dict.fromkeys(said, MARK)",
        "            pass",
        ("tests/common/test_sequences.py",),
    ),
    Mutant(
        "data: a word says whose the next texts are",
        "common/sequences.py",
        '    if not line.startswith("#") or "\\t" in line or',
        '    if not line.startswith("#") or',
        ("tests/common/test_sequences.py",),
    ),
    Mutant(
        "words: a label steers the operator's terminal",
        "client/describe.py",
        "    text = repr(label)\n",
        "    text = label\n",
        ("tests/client/test_describe.py",),
    ),
    Mutant(
        "words: labels push the price off the screen",
        "client/describe.py",
        "    return text if len(text) <= _SHOWN_CHARACTERS else",
        "    return text if text else",
        ("tests/client/test_describe.py",),
    ),
    Mutant(
        "fused: a site computes passes of mixed lengths",
        "client/fused/engine.py",
        "        if self.num_rows is None and isinstance(data, TokenExamples):\n            return mixed(",
        "        if isinstance(data, TokenExamples):\n            return mixed(",
        ("tests/client/test_site_passes.py",),
    ),
    Mutant(
        "metrics: a withdrawn release still leaves",
        "client/agent.py",
        "        allow_release(event, self._site, self._federation)\n",
        "",
        AGENT,
    ),
    # Figures
    Mutant(
        "figures: an evaluation's replacement counts as a removal",
        "common/privacy/accountant.py",
        "event.noise_multiplier / (math.sqrt(2) if replace else records)",
        "event.noise_multiplier / (1 if replace else records)",
        FIGURES,
    ),
    # The frozen base
    Mutant(
        "bfloat16: a batch's largest value scales the products",
        "common/frozen.py",
        "        return nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)\n",
        "        scale = x.abs().amax()\n"
        "        y = nn.functional.linear((x / scale).to(weight.dtype), weight).mul(scale)\n"
        "        return (y if bias is None else y + bias).to(x.dtype)\n",
        MATES + FROZEN,
    ),
    Mutant(
        "bfloat16: gradients are rounded with their mates",
        "common/frozen.py",
        "(gradient.to(weight.dtype) @ weight).to(gradient.dtype)",
        "((gradient - gradient.mean(0)).to(weight.dtype) @ weight + (gradient.mean(0) @ weight.to(gradient.dtype)))",
        MATES + FROZEN,
    ),
    Mutant(
        "prefix: what is kept is rounded, what is computed is not",
        "common/prefix.py",
        "self._kept[number] = row.clone()",
        "self._kept[number] = row.bfloat16().float()",
        MATES + FROZEN,
    ),
    Mutant(
        "prefix: room without a bound",
        "common/prefix.py",
        "                self._room -= size\n",
        "",
        FROZEN,
    ),
    Mutant(
        "engine: Opacus where the site's own does not compute the plan",
        "client/engines.py",
        '    reason = None if name == "opacus" else not_covered(plan, base)\n',
        "    reason = None\n",
        FROZEN,
    ),
    # The fused engine
    Mutant(
        "fused: the clip norm of units of one window leaves the head out",
        "client/fused/sums.py",
        "torch.hypot(_norms(found.lora), of_head)",
        "_norms(found.lora)",
        BOUNDS,
    ),
    Mutant(
        "fused: the clip norm leaves the head's bias out",
        "client/fused/sums.py",
        "torch.sqrt(weight * of_input**2 + bias)",
        "torch.sqrt(weight * of_input**2)",
        BOUNDS,
    ),
    Mutant(
        "fused: the clip norm takes δ for the head's gradient",
        "client/fused/sums.py",
        "torch.sqrt(weight * of_input**2 + bias)",
        "1.0",
        BOUNDS,
    ),
    Mutant(
        "fused: the clip norm leaves LoRA out",
        "client/fused/sums.py",
        "torch.hypot(_norms(found.lora), of_head)",
        "of_head",
        BOUNDS,
    ),
    Mutant(
        "fused: what is not finite is kept",
        "client/fused/sums.py",
        "if bool(torch.isfinite(sums).all()):",
        "if True:",
        BOUNDS,
    ),
    Mutant(
        "fused: who else is in a group says how a unit is added up",
        "client/fused/sums.py",
        "    several[members.slots[members.shares != 1]] = True\n",
        "    several[:] = several.any()\n",
        BOUNDS,
    ),
    Mutant(
        "fused: a window in no batch counts as the first row",
        "client/fused/engine.py",
        "order = np.full(len(windows), nobodys)",
        "order = np.zeros(len(windows), np.int64)",
        BOUNDS,
    ),
    Mutant(
        "fused: a window's gradient is its mate's",
        "client/fused/engine.py",
        "order[given.places] = start + given.rows",
        "order[given.places] = start + given.rows[::-1]",
        FUSED,
    ),
    Mutant(
        "fused: a window that raises keeps what its memory held",
        "client/fused/engine.py",
        "                for table in tables:\n                    table[rows] = 0.0\n",
        "                pass\n",
        BOUNDS,
    ),
    Mutant(
        "fused: a window that raises takes its mates along",
        "client/fused/engine.py",
        "        for alone in given.apart():\n",
        "        for table in tables:\n            table.zero_()\n        for alone in ():\n",
        BOUNDS,
    ),
    Mutant(
        "fused: a site's units in the first site's sum",
        "client/fused/sums.py",
        "lora[owner] += scale",
        "lora[0] += scale",
        FUSED,
    ),
    Mutant(
        "rows: a site's units in the first site's sum",
        "client/unit_gradients.py",
        "total[owner] += factors[start : start + len(gradients)] @ gradients",
        "total[0] += factors[start : start + len(gradients)] @ gradients",
        FUSED,
    ),
    Mutant(
        "fused: a huge unit in every site's sum",
        "client/unit_gradients.py",
        "total[int(self._members.owners[0])] = scaled",
        "total[:] = scaled",
        BOUNDS,
    ),
    Mutant(
        "fused: units joined under the first site",
        "client/unit_gradients.py",
        "np.repeat([owner for owner, _ in groups], np.diff(before))",
        "np.repeat([0 for _ in groups], np.diff(before))",
        FUSED,
    ),
    Mutant(
        "fused: rows meet the first site's weights",
        "client/fused/factors.py",
        "return factor[:1] if owners is None or not trains(entry) else factor[owners]",
        "return factor[:1]",
        FUSED,
    ),
    Mutant(
        "fused: one site's clip norm for all",
        "client/trainer.py",
        "bound = bounds[0] if members.owners is None else bounds[torch.from_numpy(members.owners)]",
        "bound = bounds[0]",
        BOUNDS,
    ),
    Mutant(
        "fused: one site's noise for all",
        "client/trainer.py",
        "[_noised(of_one, site) for of_one, site in zip(total, sites, strict=True)]",
        "[_noised(of_one, sites[0]) for of_one, site in zip(total, sites, strict=True)]",
        FUSED,
    ),
    Mutant(
        "fused: a site without a drawn unit goes without noise",
        "client/trainer.py",
        "[_noised(of_one, site) for of_one, site in zip(total, sites, strict=True)]",
        "[_noised(of_one, site) if of_one.any() else np.float32(of_one) for of_one, site in zip(total, sites)]",
        FUSED,
    ),
    Mutant(
        "method: its hook sees the sum before the noise",
        "client/trainer.py",
        "                gradient = spec.adjust(gradient, model.read()",
        "                spec.adjust(np.float32(total), model.read().reshape(shape), start.reshape(shape))\n"
        "                gradient = spec.adjust(gradient, model.read()",
        BOUNDS,
    ),
    Mutant(
        "fused: rows are never pinned",
        "client/fused/build.py",
        "        self.pinned = not all(\n",
        "        self.pinned = False and not all(\n",
        BOUNDS,
    ),
    Mutant(
        "fused: pins are set and not used",
        "client/fused/build.py",
        "        if self.pinned and isinstance(data, TokenExamples):\n",
        "        if False:\n",
        BOUNDS,
    ),
    Mutant(
        "fused: places are tried, mates are not",
        "client/fused/build.py",
        "    return same_beside_dummies(engine, ids, mask, [0], labels)\n",
        "    return True\n",
        BOUNDS,
    ),
    Mutant(
        "fused: mates that show are let pass where rows are pinned",
        "client/fused/build.py",
        "                if not same_beside_dummies(self",
        "                if False and not same_beside_dummies(self",
        BOUNDS,
    ),
    Mutant(
        "fused: a batch's shape tells how many were drawn",
        "common/examples.py",
        "batch = self._batch(bucket, length, windows[part], part, rows, num_rows[bucket])",
        "batch = self._batch(bucket, length, windows[part], part, rows, len(part))",
        FUSED,
    ),
    Mutant(
        "fused: a row's padding hides its mates' tokens",
        "client/fused/encoder.py",
        "    return bias.repeat_interleave(num_heads, 0).unsqueeze(1)",
        "    return bias.amin(0).expand(len(bias) * num_heads, 1, -1)",
        FUSED,
    ),
    Mutant(
        "fused: rows of a segment meet the factors of the first rows of the pass",
        "client/fused/attention.py",
        "part if len(part) == 1 else part[rows] for part in (self.down, *self.up)",
        "part if len(part) == 1 else part[: rows.stop - rows.start] for part in (self.down, *self.up)",
        FUSED,
    ),
    Mutant(
        "fused: a segment's LoRA gradients are left in another's rows",
        "client/fused/attention.py",
        "None if self.down_out is None else self.down_out[rows]",
        "None if self.down_out is None else self.down_out[: rows.stop - rows.start]",
        FUSED,
    ),
    Mutant(
        "fused: tokens of a segment meet the head of the first rows of the pass",
        "client/fused/factors.py",
        "part if len(part) == 1 else part[rows] for part in (self.head, self.bias)",
        "part if len(part) == 1 else part[: rows.stop - rows.start] for part in (self.head, self.bias)",
        TAGGED,
    ),
    Mutant(
        "fused: a segment's gradients of the head are left in another's rows",
        "client/fused/heads.py",
        "of_weight[rows].copy_(torch.bmm(delta.transpose(1, 2), x))",
        "of_weight[: segment.num_rows].copy_(torch.bmm(delta.transpose(1, 2), x))",
        TAGGED,
    ),
    Mutant(
        "fused: the loss of tokens is one for the segment",
        "client/fused/heads.py",
        "(delta,) = torch.autograd.grad(loss(logits, targets, weights).sum(), logits)",
        "(delta,) = torch.autograd.grad(loss(logits, targets, weights).sum() ** 2, logits)",
        TAGGED,
    ),
    Mutant(
        "fused: the gradient of a head that reads tokens is that of the row's first",
        "client/fused/heads.py",
        "of_weight[rows].copy_(torch.bmm(delta.transpose(1, 2), x))",
        "of_weight[rows].copy_(torch.bmm(delta[:, :1].transpose(1, 2), x[:, :1]))",
        TAGGED,
    ),
    Mutant(
        "fused: a head that reads tokens is held as features' are",
        "client/fused/factors.py",
        "return self.trains(entry) and not self.per_token",
        "return self.trains(entry)",
        TAGGED + BOUNDS,
    ),
    Mutant(
        "passes: alone, a window stands beside its mates' tags",
        "common/passes.py",
        "torch.full_like(self.tags, NO_TAG)",
        "self.tags.clone()",
        ("tests/common/test_passes.py",),
    ),
    Mutant(
        "passes: owners stand in the order in which windows were asked for",
        "common/passes.py",
        "owners=None if owners is None else owners[chosen],",
        "owners=None if owners is None else owners[: len(chosen)],",
        ("tests/common/test_passes.py",),
    ),
    Mutant(
        "fused: an update starts from the round before",
        "client/training.py",
        "        if isinstance(engine, SiteEngine):\n            engine.take_over()\n        training =",
        "        training =",
        BOUNDS,
    ),
    Mutant(
        "fused: an update leaves its weights behind",
        "client/trainer.py",
        "        model.write(start)\n",
        "        pass\n",
        TRAINER,
    ),
    # Operation
    Mutant(
        "audit: a reply leaves without its line",
        "client/agent.py",
        "        return self._refusal(Code.UNAVAILABLE, request.body)\n\n    @staticmethod",
        "        return reply\n\n    @staticmethod",
        ("tests/client/test_audit.py",),
    ),
    Mutant(
        "audit: a ledger put back with its head file is believed",
        "client/audit.py",
        "        if found is not None:\n            ledger.note_log(*found)\n",
        "",
        ("tests/client/test_audit.py",),
    ),
    Mutant(
        "rehearsal: without the site's consent",
        "client/rehearsal.py",
        "if not self._site.federation[self._federation].rehearsal:",
        "if False:",
        ("tests/client/test_rehearsal.py",),
    ),
    Mutant(
        "resume: a round is asked again with other content",
        "server/progress.py",
        "if known is None or known.sha256 == request.sha256:",
        "if True:",
        ("tests/server/test_resume.py",),
    ),
    Mutant(
        "door: a request that names another site's key",
        "server/fleet/authentication.py",
        "            if not _matches(request, received_public_key):\n",
        "            if False:\n",
        ("tests/integration/test_link_refusals.py", "tests/integration/test_link_hostile.py"),
    ),
)
