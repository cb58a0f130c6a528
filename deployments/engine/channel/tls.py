"""TLS on the token channel: both ends show a certificate of the cluster's own authority."""

import logging
import os
import ssl

from cluster.config import ChannelTlsConfig

log = logging.getLogger("trireme.channel")


class ChannelTls:
    """The contexts of one process, for the ends that listen and those that connect.

    Replicas are found by address and come and go, so no host name is checked: whoever has a key
    that the authority has signed belongs to the cluster. Files that are renewed are read again by
    ``refresh``; connections that are open stay as they are. Raises ``OSError`` (``ssl.SSLError``)
    if the files cannot be read at the start.
    """

    def __init__(self, config: ChannelTlsConfig) -> None:
        self._config = config
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT)
        self._read_at = self._stamps()
        self._load()

    def refresh(self) -> None:
        """Read the files again if any of them has changed. What cannot be read changes nothing."""
        try:
            stamps = self._stamps()
            if stamps != self._read_at:
                self._load()
                self._read_at = stamps
                log.info("the channel's certificates were read again")
        except OSError as error:
            # A certificate and its key are not renewed in one moment; the next look finds both.
            log.warning("the channel's certificates could not be read again: %s", error)

    def _load(self) -> None:
        config = self._config
        _context(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(config.cert_file, config.key_file)
        for context in (self.server, self.client):
            context.load_cert_chain(config.cert_file, config.key_file)
            context.load_verify_locations(config.ca_file)

    def _stamps(self) -> tuple[int, ...]:
        config = self._config
        files = (config.cert_file, config.key_file, config.ca_file)
        return tuple(os.stat(file).st_mtime_ns for file in files)


def certificates(config: ChannelTlsConfig | None) -> tuple[str, ...]:
    """Files with the channel's certificate and with the authority that signed it."""
    return () if config is None else (config.cert_file, config.ca_file)


def _context(kind: int) -> ssl.SSLContext:
    made = ssl.SSLContext(kind)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    return made
