# Crewline in a small image, with the embedding model; a model server runs beside it (docker-compose.yml).

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package crewline-cli \
    && install -D target/release/crewline /out/crewline

# Fetched and checked by hash by crewline itself; only what the embedder needs is kept.
FROM debian:bookworm-slim AS models
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/crewline /usr/local/bin/crewline
RUN crewline setup --local --yes --data-dir /data \
    && rm -rf /data/runtime/llama /data/models/smollm2-135m-instruct

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin crewline \
    && install -d -o crewline -g crewline -m 0700 /data
COPY --from=build /out/crewline /usr/local/bin/crewline
COPY --from=models --chown=crewline:crewline /data/runtime /data/runtime
COPY --from=models --chown=crewline:crewline /data/models /data/models
USER crewline
WORKDIR /data
VOLUME /data
ENV CREWLINE_DATA_DIR=/data
ENTRYPOINT ["crewline"]
CMD ["--help"]
