"""What Grafana shows of Sentinel: dashboards made from the catalog, and how they get there."""
