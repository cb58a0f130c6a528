output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "cidr" {
  description = "Its addresses."
  value       = aws_vpc.this.cidr_block
}

output "private_subnet_ids" {
  description = "Subnets of nodes and pods, by zone."
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
}

output "data_subnet_ids" {
  description = "Subnets of stores, without a way out, by zone."
  value       = { for zone, subnet in aws_subnet.data : zone => subnet.id }
}

output "public_subnet_ids" {
  description = "Subnets of internet-facing load balancers, by zone; none where there is no way out."
  value       = { for zone, subnet in aws_subnet.public : zone => subnet.id }
}

output "nat_addresses" {
  description = "Addresses that others see, for their allow-lists."
  value       = [for address in aws_eip.nat : address.public_ip]
}
