"""What watches the platform, as code: alert rules, Grafana's dashboards and data sources; files under deploy/ are made of it."""
