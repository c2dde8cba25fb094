"""Messages of PyTorch that users see although they cannot act on them."""

import logging

__all__ = ["hide_enum_registrations"]


class _WithoutEnumRegistrations(logging.Filter):
    """Drops the warning that classes of torchao are registered in a deprecated way."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        return "register_constant" not in record.getMessage()


_filter = _WithoutEnumRegistrations()


def hide_enum_registrations() -> None:
    """Hide the warning that torchao causes, which transformers imports if it is installed."""
    logging.getLogger("torch.utils._pytree").addFilter(_filter)
