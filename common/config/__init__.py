"""The two files: federation.toml (`Plan` and the server's table) and site.toml (`Site`); and the invitation between."""

from privet.common.config.federation import Federation, PublicData, ServerSpec, SimulationSpec
from privet.common.config.files import load_federation, load_site, parse_plan
from privet.common.config.invite import Invite, load_invite
from privet.common.config.plan import Plan
from privet.common.config.site import MembershipSpec, PolicySpec, Site
from privet.common.config.task import TaskSpec

__all__ = [
    "Federation",
    "Invite",
    "MembershipSpec",
    "Plan",
    "PolicySpec",
    "PublicData",
    "ServerSpec",
    "SimulationSpec",
    "Site",
    "TaskSpec",
    "load_federation",
    "load_invite",
    "load_site",
    "parse_plan",
]
