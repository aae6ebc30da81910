"""What /info tells of the backend, beside TGI's fields."""

from dataclasses import replace

from tgi_core.plugin.report import ConformanceReport, Outcome, Promise

REPORT = ConformanceReport(
    backend="npu",
    distribution="tgi-backend-npu",
    version="1.2",
    contract=(1, 0),
    core="0.1.0",
    date="2026-11-26",
    device="npu:0",
    simulator="a double of the SDK",
    model="tiny",
    runtime=("Python 3.11",),
    promises=(Promise(group="cache", name="order_matters", outcome=Outcome.KEPT),),
)


def test_the_backend_and_its_report_are_told(server):
    model = server.service.model
    server.service.model = replace(model, backend="npu", conformance=REPORT)
    told = server.get("/info").json
    assert told["backend"] == "npu"
    assert told["conformance"] == {
        "level": "bronze",
        "date": "2026-11-26",
        "version": "1.2",
        "device": "npu:0",
        "simulator": "a double of the SDK",
    }
    on_device = replace(REPORT, simulator="")
    server.service.model = replace(model, backend="npu", conformance=on_device)
    assert server.get("/info").json["conformance"]["simulator"] is None


def test_a_backend_without_a_report_claims_nothing(server):
    told = server.get("/info").json
    assert "conformance" not in told and "backend" not in told
