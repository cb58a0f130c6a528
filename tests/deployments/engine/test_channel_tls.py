"""The token channel over TLS: certificates on both sides, strangers, renewal."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from cluster.config import ChannelTlsConfig
from deployments.engine.channel.frames import PROTOCOL_VERSION, STOP, Hello, encode
from deployments.engine.channel.tls import ChannelTls
from deployments.engine.simulated import reply
from tests.deployments.engine.channel_world import (
    SECRET,
    Recorder,
    linked,
    quick_engine,
    running_host,
    submission,
)


def files(folder: Path, authority: trustme.CA, name: str = "node") -> ChannelTlsConfig:
    """A certificate of ``authority``, in files as a node has them."""
    cert = authority.issue_cert(f"{name}.trireme.internal")
    config = ChannelTlsConfig(
        cert_file=str(folder / f"{name}.pem"),
        key_file=str(folder / f"{name}.key"),
        ca_file=str(folder / f"{name}-ca.pem"),
    )
    cert.private_key_pem.write_to_path(config.key_file)
    for index, blob in enumerate(cert.cert_chain_pems):
        blob.write_to_path(config.cert_file, append=index > 0)
    authority.cert_pem.write_to_path(config.ca_file)
    return config


async def test_streams_arrive_token_for_token(tmp_path: Path) -> None:
    tls = ChannelTls(files(tmp_path, trustme.CA()))
    engine, recorder = quick_engine(), Recorder()
    async with running_host(engine, tls=tls) as host, linked(host, recorder, tls=tls) as link:
        await recorder.until(lambda: recorder.welcomes)
        for stream in range(1, 9):
            link.submit(submission(stream))
        await recorder.until(lambda: len(recorder.finished) == 8)
    for stream in range(1, 9):
        assert recorder.tokens[stream] == reply([1, 2, 3, stream], "low", 0, engine.config)
        assert recorder.finished[stream] == STOP


async def told(port: int, context: ssl.SSLContext | None) -> bytes:
    """What comes back to a hello with the right secret."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(encode(Hello(PROTOCOL_VERSION, SECRET, "gateway-1")))
        return await reader.read(4)
    except (ConnectionError, ssl.SSLError):
        return b""


@pytest.mark.parametrize("stranger", ["plain", "no certificate", "another authority"])
async def test_who_has_no_certificate_of_ours_is_told_nothing(
    tmp_path: Path, stranger: str
) -> None:
    ours = ChannelTls(files(tmp_path, trustme.CA()))
    if stranger == "plain":
        context = None
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if stranger == "another authority":
            theirs = files(tmp_path, trustme.CA(), "theirs")
            context.load_cert_chain(theirs.cert_file, theirs.key_file)
    async with running_host(quick_engine(), tls=ours) as host:
        async with asyncio.timeout(5.0):
            assert await told(host.port, context) == b""
        assert not host.server.connections


async def test_a_gateway_gives_its_secret_to_no_stranger(tmp_path: Path) -> None:
    ours = ChannelTls(files(tmp_path, trustme.CA()))
    theirs = ChannelTls(files(tmp_path, trustme.CA(), "theirs"))
    recorder = Recorder()
    async with running_host(quick_engine(), tls=theirs) as host, linked(host, recorder, tls=ours):
        await asyncio.sleep(0.5)  # it tries some times
        assert not host.server.connections
    assert recorder.welcomes == []


async def test_renewed_files_are_used_for_new_connections(tmp_path: Path) -> None:
    authority = trustme.CA()
    config = files(tmp_path, authority)
    tls, recorder = ChannelTls(config), Recorder()

    async def shown(port: int) -> bytes:
        """The server's certificate, to somebody who is let in."""
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    async with running_host(quick_engine(), tls=tls) as host:
        before = await shown(host.port)
        files(tmp_path, authority)
        async with asyncio.timeout(5.0):
            while await shown(host.port) == before:
                await asyncio.sleep(0.05)
        trustme.Blob(b"half of a key").write_to_path(config.key_file)
        async with linked(host, recorder, tls=tls):
            await recorder.until(lambda: recorder.welcomes)  # by what was read last
