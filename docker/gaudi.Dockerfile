# syntax=docker/dockerfile:1
# Intel Gaudi. The image brings torch for Gaudi, which is on no index.
#   docker run --runtime=habana -e HABANA_VISIBLE_DEVICES=all --cap-add=sys_nice --ipc=host \
#     -p 8080:80 -v tgi:/data tgi-core:gaudi --model-id org/name
# hadolint ignore=DL3007
FROM vault.habana.ai/gaudi-docker/1.24.0/ubuntu24.04/habanalabs/pytorch-installer-2.10.0:latest
ENV PIP_BREAK_SYSTEM_PACKAGES=1
# the image's torch, and no other
RUN --mount=type=bind,source=dist,target=/dist \
  python3 -c "from importlib.metadata import version; print('torch==' + version('torch'))" > /tmp/torch.txt \
  && pip install --no-cache-dir -c /tmp/torch.txt --find-links /dist "tgi-core[gaudi,dialects,otlp,watermark]"
ENV OMPI_MCA_btl_vader_single_copy_mechanism=none PT_HPU_LAZY_MODE=1
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=gaudi
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
