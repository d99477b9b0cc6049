"""The site: agent, ledger, policy, data, trainer."""
