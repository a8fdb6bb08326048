"""WAR, UAR, tables and figures."""
