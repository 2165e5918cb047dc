"""A site for tests, which joins the federation of the same test."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.client.enrolment.https_server import Routes
from tests.server.pki.federation import Federation
from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.enrolment.join import Joined, join


@dataclass
class Site:
    federation: Federation
    routes: Routes
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    name: str | None = None

    def invitation(self, *, port: int | None = None, authority: bytes | None = None, name: str = "Hospital A") -> str:
        """One for this site; at another port or of another authority, as a liar would have it."""
        made = self.federation.enrolment.invite(name, by="anna")
        if port is not None:
            made = replace(made, url=f"https://localhost:{port}")
        if authority is not None:
            made = replace(made, authority=authority)
        return made.text()

    def join(self, invitation: str | None = None) -> Joined:
        return join(
            invitation or self.invitation(),
            self.folder,
            name=self.name,
            environment=self.environment,
            now=self.federation.clock,
            timeout_s=20,
        )

    def refused(self, invitation: str | None = None) -> JoinError:
        """Why it does not join; the reason is one line without the token, and the folder has not joined."""
        text = invitation or self.invitation()
        try:
            self.join(text)
        except JoinError as error:
            assert error.exit_code is not JoinExit.JOINED
            assert "\n" not in str(error)
            assert text.partition("#")[2][:20] not in str(error)
            assert not (self.folder / "site.json").exists()
            return error
        raise AssertionError("joined")

    @property
    def sent_tokens(self) -> int:
        """How often anybody was told the token."""
        return sum(bool(body) for _, body in self.routes.asked)
