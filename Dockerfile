# postchute as a container image: one program, an unprivileged user, a volume for the outbox. It needs no writable root
# filesystem (`--read-only`) and no capability.
#
#   docker build -t postchute .
#   docker run -d -p 8025:8025 -v postchute:/var/lib/postchute --read-only --cap-drop=ALL \
#     -e POSTCHUTE_ROUTE='smtp://relay:25?tls=opportunistic' ...  postchute
#
# BASE is any Debian 12 or 13; the same one is used to build and to run.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /src
COPY tests/packages tests/deps tests/
RUN tests/deps build
COPY . .
RUN make -j"$(nproc)" build && strip --strip-unneeded build/release/postchute

FROM ${BASE}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
      ca-certificates dns-root-data libcurl4 libevent-core-2.1-7 libevent-openssl-2.1-7 libevent-pthreads-2.1-7 \
      libidn2-0 libjansson4 libmicrohttpd12 libpcre2-8-0 libseccomp2 libsqlite3-0 libssl3 libunbound8 libuuid1 libyaml-0-2 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10025 postchute \
 && useradd --uid 10025 --gid 10025 --no-create-home --home-dir /var/lib/postchute --shell /usr/sbin/nologin postchute \
 && install -d -o postchute -g postchute -m 0700 /var/lib/postchute
COPY --from=build /src/build/release/postchute /usr/local/bin/postchute
COPY --from=build /src/LICENSE /usr/share/postchute/LICENSE
ENV POSTCHUTE_LISTEN=0.0.0.0:8025 \
    POSTCHUTE_DATA=/var/lib/postchute
USER 10025:10025
VOLUME /var/lib/postchute
EXPOSE 8025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["postchute", "doctor", "--live"]
ENTRYPOINT ["postchute"]
CMD ["serve"]
