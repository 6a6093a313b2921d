# The daemon's image. Nothing in it depends on the processor: it builds on x86-64 and on arm64.

FROM rust:1.95-slim-bookworm AS build
# etcd-client compiles etcd's .proto files.
RUN apt-get update \
    && apt-get install --no-install-recommends --yes protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The dependencies get a layer of their own, made from the manifests and an empty program, so that an edit in src/
# does not compile them again. Cargo reads the manifests of tests/simulation and tests/support, although nothing of
# either is built here. Benches, tests and examples that the main manifest declares are not here: cargo would miss their
# files. What came of the empty program is removed, or cargo could take it for newer than the real one.
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
# Nobody: a user by number needs no entry in /etc/passwd.
USER 65534:65534
ENTRYPOINT ["leader-election"]
