/** TLS 1.3 between members, both ends authenticated, by a shared key or by certificates. Nothing is resumed. */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { connect, createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Address } from '../../lib/prefix.ts';
import { type Credentials, type GroupKey, refusal, wrongCertificate } from './credentials.ts';

/** A handshake that takes longer is ended, ms. */
export const HANDSHAKE_TIMEOUT = 3000;

const COMMON = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  // A ticket would outlive a key that was removed.
  secureOptions: constants.SSL_OP_NO_TICKET,
} as const;
/** The hash of a PSK that a callback gives is SHA-256. */
const PSK_CIPHER = 'TLS_AES_128_GCM_SHA256';

/** The identity of the key that a connection of ours was accepted with. */
const identities = new WeakMap<Socket, string>();

/** The key or certificate that a connection was accepted with, as `Credentials.identities` names it. */
export const identityOf = ({ certificates }: Credentials, socket: TLSSocket): string =>
  certificates?.identity ?? identities.get(socket) ?? '';

/** A TLS server without a socket of its own: `emit('connection', socket)` hands it one that was accepted. */
export function secureServer(credentials: Credentials): Server {
  const { certificates } = credentials;
  const options: TlsOptions = { ...COMMON, handshakeTimeout: HANDSHAKE_TIMEOUT };
  if (certificates !== undefined) {
    const { cert, key, ca } = certificates;
    // `refusedClient` refuses: Node would end the connection without a reason to count.
    return createServer({ ...options, cert, key, ca, requestCert: true, rejectUnauthorized: false });
  }
  return createServer({
    ...options,
    ciphers: PSK_CIPHER,
    pskCallback: (socket: TLSSocket, identity: string) => {
      const key = credentials.keys.find((one) => one.identity === identity);
      identities.set(socket, identity);
      return key?.secret ?? null;
    },
  });
}

/** Why a client is refused whose handshake is over; a connection is used only when this is undefined. */
export function refusedClient(credentials: Credentials, socket: TLSSocket): string | undefined {
  const { certificates } = credentials;
  if (certificates === undefined) return identities.has(socket) ? undefined : 'key';
  if (!socket.authorized) return 'certificate';
  return wrongCertificate(certificates, socket.getPeerCertificate()) && 'certificate';
}

/** Opens a connection to a member; `secureConnect` is emitted once the other end is authenticated. */
export function secureConnect(
  credentials: Credentials,
  key: GroupKey | undefined,
  ends: { host: Address; port: number; localAddress: Address },
): TLSSocket {
  const { certificates } = credentials;
  const options = { ...COMMON, ...ends, timeout: HANDSHAKE_TIMEOUT, noDelay: true };
  if (certificates !== undefined) {
    const { cert, key: privateKey, ca } = certificates;
    const checkServerIdentity = (_host: string, peer: Parameters<typeof wrongCertificate>[1]) =>
      wrongCertificate(certificates, peer);
    return connect({ ...options, cert, key: privateKey, ca, checkServerIdentity });
  }
  return connect({
    ...options,
    ciphers: PSK_CIPHER,
    pskCallback: () => (key === undefined ? null : { psk: key.secret, identity: key.identity }),
    // It is asked only when the other end has shown a certificate in place of the key.
    checkServerIdentity: () => refusal('the member has shown a certificate in place of the key'),
  });
}

/** The reason of a handshake that failed, for the count of what was refused. */
export function handshakeReason({ code = '' }: NodeJS.ErrnoException): string {
  // The other end has refused us.
  if (/ALERT/.test(code)) return 'handshake_ended';
  if (/BINDER|NO_SUITABLE_SIGNATURE/.test(code)) return 'key';
  if (/CERT|SIGNATURE|ISSUER|UNKNOWN_CA/.test(code)) return 'certificate';
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'handshake_timeout';
  return code === 'ECONNRESET' ? 'handshake_ended' : 'not_tls';
}
