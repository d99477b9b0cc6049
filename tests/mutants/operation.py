"""The running of servers and sites."""

from tests.mutants.mutant import Mutant

MUTANTS = (
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
