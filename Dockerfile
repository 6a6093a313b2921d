# The daemon's image. It does not depend on the processor: it builds on x86-64 and on arm64.

FROM rust:1.95-slim-bookworm AS build
# etcd-client compiles etcd's .proto files.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The dependencies get their own layer, built from the manifests and an empty program. So an edit in src/ does not
# compile them again. Cargo reads the manifests of tests/simulation and tests/support, although nothing in these folders
# is built here. awk removes the benches, tests and examples from the main manifest, because their files are not here.
# `cargo clean` removes the build of the empty program, because cargo could consider it newer than the real program.
COPY Cargo.toml Cargo.lock ./
COPY tests/simulation/Cargo.toml tests/simulation/
COPY tests/support/Cargo.toml tests/support/
RUN awk '/^\[/ { skip = /^\[\[(bench|example|test)\]\]/ } !skip' Cargo.toml > Cargo.toml.new \
    && mv Cargo.toml.new Cargo.toml \
    && mkdir src && echo '//! Empty.' > src/lib.rs && echo '//! Empty. \n fn main() {}' > src/main.rs \
    && cargo build --release --locked \
    && cargo clean --release --package leader-election

COPY src src
RUN cargo build --release --locked

FROM debian:bookworm-slim
# The version is the one in Cargo.toml; tests/documents.rs compares them.
LABEL org.opencontainers.image.title="leader-election" \
      org.opencontainers.image.version="0.2.0"
COPY wait-for-it.sh /usr/local/bin/
COPY --from=build /build/target/release/leader-election /usr/local/bin/
# The user nobody, by number: a number needs no entry in /etc/passwd.
USER 65534:65534
ENTRYPOINT ["leader-election"]
