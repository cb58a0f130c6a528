"""The opt-in log of what callers ask and what they are answered, with secrets taken out."""

from deployments.gateway.content_log.log import ContentLog, make_content_log

__all__ = ["ContentLog", "make_content_log"]
