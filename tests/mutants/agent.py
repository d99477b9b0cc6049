"""The agent and the ledger: admission, reservation, replies, chain."""

from tests.mutants.mutant import AGENT, BEHIND, CHAIN, FOREIGN, INSTALLED, LEDGER, POLICY, Mutant

MUTANTS = (
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
        "client/ledger/file.py",
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
        "client/ledger/events.py",
        "        return row.admission.training_rounds\n",
        "        return row.admission.training_rounds + 1\n",
        LEDGER + AGENT,
    ),
    Mutant(
        "horizon: evaluations without end",
        "client/ledger/events.py",
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
        "client/ledger/events.py",
        '    if known["state"] != "stored":\n        raise RefusedError(',
        '    if known["state"] != "stored":\n        return New(event_id=known["id"])\n        raise RefusedError(',
        LEDGER + AGENT,
    ),
    Mutant(
        "altered request: answered from the store",
        "client/ledger/events.py",
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
        "client/ledger/ledger.py",
        '                note(db, "server", head)\n',
        "                pass\n",
        BEHIND + AGENT,
    ),
    Mutant(
        "rollback: evidence does not stop a reservation",
        "client/ledger/events.py",
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
        "client/ledger/chain.py",
        '    if row["seq"] != seq or bytes(row["previous"]) != previous or bytes(row["hash"]) != digest:',
        '    if row["seq"] != seq:',
        CHAIN,
    ),
)
