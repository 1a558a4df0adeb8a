# syntax=docker/dockerfile:1
# The worker's image: built from source, the demo model inside, no shell script, no package added to the last stage.

FROM python:3.12-slim-bookworm AS runtime
COPY .ci/runtime .ci/onnxruntime.txt /offramp/.ci/
RUN /offramp/.ci/runtime /offramp/lib

FROM rust:1.95-slim-bookworm AS build
# librdkafka and zstd are built from source. Their compiler need not be a certain one: the base image fixes its release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /offramp
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/offramp/target \
    cargo build --locked --release --bin offramp \
    && cp target/release/offramp /usr/local/bin/offramp

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="offramp" \
      org.opencontainers.image.description="A Kafka stream worker that learns where a frame may leave the model early" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /usr/local/bin/offramp /opt/offramp/offramp
COPY --from=runtime /offramp/lib /opt/offramp/
COPY models/fashion-resnet18 /opt/offramp/models/fashion-resnet18
COPY LICENSE /opt/offramp/LICENSE
ENV PATH=/opt/offramp:$PATH \
    ORT_DYLIB_PATH=/opt/offramp/libonnxruntime.so \
    OFFRAMP__HTTP__LISTEN=0.0.0.0:9187
WORKDIR /opt/offramp
USER 65532:65532
EXPOSE 9187
STOPSIGNAL SIGTERM
# bash speaks TCP, so the image needs no curl. The first answer line is read, nothing else.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9187 && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["offramp"]
CMD ["run"]
