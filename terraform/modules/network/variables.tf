variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "cidr" {
  type        = string
  description = "Addresses of the VPC. Every pod takes one, so be generous."
  default     = "10.40.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && can(regex("/(16|17|18|19|20)$", var.cidr))
    error_message = "Write a private IPv4 range of /16 to /20, such as 10.40.0.0/16."
  }
  validation {
    condition     = can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.)", var.cidr))
    error_message = "Write a range of RFC 1918: inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16."
  }
}

variable "availability_zones" {
  type        = list(string)
  description = "Two or three zones. Name the zone of your capacity reservation or block among them."

  validation {
    condition     = contains([2, 3], length(var.availability_zones)) && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "Write two or three different zones, such as [\"us-east-1a\", \"us-east-1b\"]: EKS and Multi-AZ stores need two."
  }
  validation {
    condition     = alltrue([for zone in var.availability_zones : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$", zone))])
    error_message = "Write names of availability zones, such as us-east-1a."
  }
}

variable "other_cidrs" {
  type        = list(string)
  description = "Ranges that traffic will come from or go to besides this VPC: offices, VPNs, peered VPCs, the cluster's services."
  default     = []

  validation {
    condition     = alltrue([for other in var.other_cidrs : can(cidrhost(other, 0))])
    error_message = "Write IPv4 ranges, such as 10.0.0.0/16."
  }
  validation {
    # Two ranges overlap if, cut to the shorter prefix, they are the same.
    condition = alltrue([for other in var.other_cidrs : try(
      cidrhost("${split("/", other)[0]}/${min(split("/", other)[1], split("/", var.cidr)[1])}", 0)
      != cidrhost("${split("/", var.cidr)[0]}/${min(split("/", other)[1], split("/", var.cidr)[1])}", 0),
    true)])
    error_message = "A range in other_cidrs overlaps with cidr: write a cidr that none of them touches."
  }
}

variable "nat" {
  type        = string
  description = "Way out to the internet: none, single (one gateway, cheaper) or per-zone (outlives a zone). Weights and images need none of it."
  default     = "single"

  validation {
    condition     = contains(["none", "single", "per-zone"], var.nat)
    error_message = "Write none, single or per-zone."
  }
}

variable "public_load_balancers" {
  type        = bool
  description = "Whether there are public subnets for internet-facing load balancers, also without NAT."
  default     = false
}

variable "endpoints" {
  type        = set(string)
  description = "AWS services reached inside the VPC. S3 is always among them."
  default     = ["autoscaling", "ec2", "ecr.api", "ecr.dkr", "eks", "elasticloadbalancing", "logs", "sts"]

  validation {
    condition     = length(setsubtract(["ec2", "ecr.api", "ecr.dkr", "sts"], var.endpoints)) == 0
    error_message = "Keep ec2, ecr.api, ecr.dkr and sts: without them GPU nodes need NAT to join and to pull images."
  }
  validation {
    condition     = !contains(var.endpoints, "s3")
    error_message = "Remove s3: it has a gateway endpoint always, which costs nothing."
  }
}

variable "flow_log_days" {
  type        = number
  description = "Days that records of refused and accepted connections are kept."
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 545, 731, 1096], var.flow_log_days)
    error_message = "Write one of 30, 60, 90, 180, 365, 400, 545, 731 or 1096."
  }
}
