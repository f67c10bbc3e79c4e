"""A program that sends mail: the test reads what an SMTP server has received."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import pytest

import pytest_containers as pc

pytest.importorskip("aiosmtpd")
smtp = pc.services.Smtp.fixture(refused=["gone@example.org"])


def welcome(address: str, host: str, port: int) -> None:
    """Send a mail, as the program under test would."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.org", address, "Welcome"
    message.set_content("We are glad that you are here.")
    with smtplib.SMTP(host, port, timeout=5) as client:
        client.send_message(message)


def test_sends_a_mail(smtp: pc.services.Smtp) -> None:
    welcome("new@example.org", smtp.host, smtp.port)

    (mail,) = smtp.messages
    assert mail.recipients == ("new@example.org",)
    assert mail.message["Subject"] == "Welcome"
    assert "glad" in mail.message.get_content()


def test_learns_of_a_mailbox_that_does_not_exist(smtp: pc.services.Smtp) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        welcome("gone@example.org", smtp.host, smtp.port)

    assert smtp.messages == []
