"""What `lifemask doctor` looks at: the machine, packages, weights, and a self-test."""

from lifemask.apps.doctor.finding import Finding, Verdict, examined, verdict_of

__all__ = ["Finding", "Verdict", "examined", "verdict_of"]
