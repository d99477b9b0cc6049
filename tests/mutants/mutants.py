"""The ways in which the guarantee can be broken in one place, and the tests that must notice."""

from tests.mutants import agent, engines, mechanism, operation, released

MUTANTS = (
    *mechanism.MUTANTS,
    *agent.MUTANTS,
    *released.MUTANTS,
    *engines.MUTANTS,
    *operation.MUTANTS,
)
