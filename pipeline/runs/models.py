"""The ``models`` stage: the frozen encoder and LLM in one layout."""

from __future__ import annotations

from pipeline.runs.common import Context, log
from pipeline.runs.recorded import recorded


def run(context: Context) -> None:
    """Prepare both models and check that the transcriber opens."""
    from stages.models.prepare import prepare_encoder, prepare_llm, prepare_transcriber

    names = context.settings.models
    with recorded(context, "models") as run:
        run.params({"models": names.model_dump()})
        encoder = prepare_encoder(names.encoder, context.project.encoder)
        log.info("models: encoder %s, %s, %d wide", encoder, encoder.kind, encoder.width)
        llm = prepare_llm(names.llm, context.project.llm)
        log.info("models: LLM %s, %s, %d wide", llm, llm.kind, llm.width)
        prepare_transcriber(names.transcriber)
        run.tags({"encoder": str(encoder), "llm": str(llm)})
