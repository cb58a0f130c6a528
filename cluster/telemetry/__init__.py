"""What is generated from the metric table: its document, dashboards, recording rules and alerts."""
