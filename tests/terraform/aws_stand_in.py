"""moto's server, with what its EKS gets wrong put right. Run by moto's own environment.

    python aws_stand_in.py PORT

AWS makes a security group with every cluster and moto does not. And moto 5.2 gives node groups an
SSH key that nobody asked for, loses their update settings, forgets a cluster's access settings, a
metrics workspace's key and a database's certificate and Performance Insights, mistakes a launch
template's own tags for those of its machines, and cannot tell whom a budget warns, which parameters
of a database somebody set, nor why one security group lets in another; so that Terraform would want
to change them all. What is put right is what AWS documents.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from moto.amp import responses as amp
from moto.amp.models import Workspace
from moto.budgets import responses as budgets
from moto.ec2.models import ec2_backends
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.eks import models, responses
from moto.rds import responses as rds
from moto.rds.models import DBParameterGroup
from moto.server import main

_create_cluster = responses.EKSResponse.create_cluster
_create_nodegroup = responses.EKSResponse.create_nodegroup


def create_cluster(self: responses.EKSResponse) -> Any:
    answer = _create_cluster(self)
    cluster = self.eks_backend.clusters[self._get_param("name")]
    ec2 = ec2_backends[self.current_account][self.region]
    vpc_config = cluster.resources_vpc_config
    vpc = ec2.get_subnet(vpc_config["subnetIds"][0]).vpc_id
    group = ec2.create_security_group(
        f"eks-cluster-sg-{cluster.name}", "EKS created security group", vpc
    )
    vpc_config["vpcId"] = vpc
    vpc_config["clusterSecurityGroupId"] = group.id
    cluster.access_config = {
        "authenticationMode": self._get_param("accessConfig")["authenticationMode"]
    }
    cluster.group_id = group.id
    return answer


def delete_cluster(self: models.EKSBackend, name: str) -> Any:
    cluster = _delete_cluster(self, name)
    ec2_backends[self.account_id][self.region_name].delete_security_group(group_id=cluster.group_id)
    return cluster


def create_nodegroup(self: responses.EKSResponse) -> Any:
    answer = _create_nodegroup(self)
    cluster = self.eks_backend.clusters[self._get_param("name")]
    nodegroup = cluster.nodegroups[self._get_param("nodegroupName")]
    nodegroup.remote_access = self._get_param("remoteAccess")
    nodegroup.update_config = self._get_param("updateConfig")
    if self._get_param("launchTemplate"):
        nodegroup.disk_size = None
        nodegroup.instance_types = self._get_param("instanceTypes")
    return answer


def create_version(
    self: LaunchTemplate, data: dict[str, Any], description: str
) -> LaunchTemplateVersion:
    specifications = [
        each
        for each in data.get("TagSpecifications", [])
        if each["ResourceType"] != "launch-template"
    ]
    return _create_version(self, {**data, "TagSpecifications": specifications}, description)


def create_db_instance(self: rds.RDSResponse) -> Any:
    answer = _create_db_instance(self)
    asked = self.params
    database = self.backend.databases[asked["db_instance_identifier"]]
    for name, value in asked.items():
        if name.endswith("certificate_identifier"):
            database.ca_certificate_identifier = value
    database.performance_insights_enabled = asked.get("enable_performance_insights", False)
    if database.performance_insights_enabled:
        database.performance_insights_kms_key_id = asked.get("performance_insights_kms_key_id")
        database.performance_insights_retention_period = 7
    return answer


def update_parameters(self: DBParameterGroup, parameters: Iterable[dict[str, Any]]) -> None:
    _update_parameters(self, ({**each, "Source": "user"} for each in parameters))


def described(self: SecurityGroupRule) -> str | None:
    found = self.ip_range.get("Description") or self.source_group.get("Description")
    return None if found is None else str(found)


def create_workspace(self: amp.PrometheusServiceResponse) -> str:
    answer = _create_workspace(self)
    workspace = self.amp_backend.workspaces[json.loads(answer)["workspaceId"]]
    workspace.key_arn = json.loads(self.body).get("kmsKeyArn")  # type: ignore[attr-defined]
    return answer


def workspace_to_dict(self: Workspace) -> dict[str, Any]:
    found = _workspace_to_dict(self)
    key_arn = getattr(self, "key_arn", None)
    return found if key_arn is None else {**found, "kmsKeyArn": key_arn}


def create_budget(self: budgets.BudgetsResponse) -> str:
    answer = _create_budget(self)
    account, name = self._get_param("AccountId"), self._get_param("Budget")["BudgetName"]
    self.backend.budgets[account][name].tags = self._get_param("ResourceTags") or []
    return answer


def describe_subscribers_for_notification(self: budgets.BudgetsResponse) -> str:
    account, name = self._get_param("AccountId"), self._get_param("BudgetName")
    asked = self._get_param("Notification")
    (found,) = (
        each
        for each in self.backend.budgets[account][name].notifications
        if each.details["NotificationType"] == asked["NotificationType"]
        and float(each.details["Threshold"]) == float(asked["Threshold"])
    )
    return json.dumps({"Subscribers": found.subscribers})


def list_tags_for_budget(self: budgets.BudgetsResponse) -> str:
    _, _, _, _, account, resource = self._get_param("ResourceARN").split(":", 5)
    tags = self.backend.budgets[account][resource.removeprefix("budget/")].tags
    return json.dumps({"ResourceTags": tags})


_create_workspace = amp.PrometheusServiceResponse.create_workspace
amp.PrometheusServiceResponse.create_workspace = create_workspace  # type: ignore[method-assign]
_workspace_to_dict = Workspace.to_dict
Workspace.to_dict = workspace_to_dict  # type: ignore[method-assign]
_update_parameters = DBParameterGroup.update_parameters
DBParameterGroup.update_parameters = update_parameters  # type: ignore[method-assign]
SecurityGroupRule.description = property(described)  # type: ignore[assignment]
_create_db_instance = rds.RDSResponse.create_db_instance
rds.RDSResponse.create_db_instance = create_db_instance  # type: ignore[method-assign]
_create_version = LaunchTemplate.create_version
LaunchTemplate.create_version = create_version  # type: ignore[method-assign]
_create_budget = budgets.BudgetsResponse.create_budget
budgets.BudgetsResponse.create_budget = create_budget  # type: ignore[method-assign]
budgets.BudgetsResponse.list_tags_for_resource = list_tags_for_budget  # type: ignore[attr-defined]
budgets.BudgetsResponse.describe_subscribers_for_notification = (  # type: ignore[attr-defined]
    describe_subscribers_for_notification
)
_delete_cluster = models.EKSBackend.delete_cluster
models.EKSBackend.delete_cluster = delete_cluster  # type: ignore[method-assign]
responses.EKSResponse.create_cluster = create_cluster  # type: ignore[method-assign]
responses.EKSResponse.create_nodegroup = create_nodegroup  # type: ignore[method-assign]

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
