/** The schema of `GatewayPolicy` (veg-agent.io/v1alpha1), the resource of our own. Pure. */
import { AUTH_TYPES } from '../../../bfd/constants.ts';
import { MAX_ASN } from '../bgp.ts';
import { MAX_VNI } from '../evpn.ts';
import {
  document,
  flag,
  formatted,
  INT32_MAX,
  integer,
  list,
  object,
  oneOf,
  type Schema,
  type Schemas,
  text,
  withDefault,
} from '../json-schema.ts';
import { VEG_AGENT } from '../kinds.ts';
import { ANNOUNCED } from '../model.ts';
import { TRANSLATION_LOG_SCHEMA } from '../translation-log-schema.ts';

const side = (where: string, more: Record<string, Schema> = {}): Schema =>
  object(
    {
      interface: formatted('interface-name', 'The interface; found by itself when absent.'),
      gateways: {
        ...list(formatted('host-address'), `The next hop ${where}, at most one a family.`),
        minItems: 1,
      },
      ...more,
    },
    ['gateways'],
    `The side of the gateway pod that faces ${where}.`,
  );

const owner = text('The pod or node that holds the address; every one when absent.');
const asn = (description: string): Schema => integer(1, MAX_ASN, description);
const cidrs = (description: string): Schema => ({ ...list(formatted('prefix'), description), minItems: 1 });
const ports: Schema = {
  type: ['integer', 'string'],
  minimum: 1,
  maximum: 65535,
  format: 'port-range',
  description: 'A port, or a range of as many ports on both sides: "8000-8010".',
};

const bits = (description: string): Schema => ({
  type: ['number', 'string'],
  format: 'bit-rate',
  description,
});
/** The limit of something. */
const bandwidth = (description: string): Schema =>
  object(
    {
      egress: bits('Towards the outside: a number is Mbit/s, "100M" and "1Gi" are bit/s; absent: no limit.'),
      ingress: bits('Towards the VPC; absent: no limit.'),
      burst: bits('What may pass at once after a pause: a number is Mbit, "1M" is bits.'),
      perSource: withDefault(flag('Each address inside has the limit by itself.'), false),
    },
    [],
    description,
  );

/** `GatewayPolicy`, the resource of our own: `docs/gateway-policy.schema.json` is this value. */
export const GATEWAY_POLICY_SCHEMA: Schema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  $id: 'https://veg-agent.io/schemas/v1alpha1/gateway-policy.json',
  title: 'GatewayPolicy',
  description: 'One VPC egress gateway: its two sides, what it translates and forwards, its BFD peers.',
  ...document(VEG_AGENT, 'GatewayPolicy', true, {
    spec: object(
      {
        internal: side('the VPC'),
        external: side('the outside', {
          gatewayMACs: list(
            formatted('mac'),
            'The Ethernet addresses that the gateways may answer from; empty: any.',
          ),
        }),
        bfd: object(
          {
            enabled: withDefault(flag('Answer BFD. Sessions are Up only while the gateway works.'), false),
            peers: list(formatted('host-address'), 'The peers, of either family; needed when enabled.'),
            minTX: withDefault(integer(1, 60000, 'Desired Min TX Interval, milliseconds.'), 1000),
            minRX: withDefault(integer(1, 60000, 'Required Min RX Interval, milliseconds.'), 1000),
            multiplier: withDefault(integer(1, 255, 'Detect Mult.'), 3),
            mode: withDefault(oneOf(['passive', 'active'], 'Whether to speak first.'), 'passive'),
            minTTL: withDefault(integer(1, 255, 'The smallest TTL or Hop Limit that is accepted.'), 254),
            adoptDiscriminator: withDefault(
              flag('Adopt the discriminator that a configured peer still remembers.'),
              true,
            ),
            anySource: withDefault(
              flag('Take packets of a peer behind the internal gateway from every Ethernet address.'),
              false,
            ),
            auth: object(
              {
                type: oneOf(AUTH_TYPES, 'The authentication type of RFC 5880.'),
                keyID: integer(0, 255, 'Auth Key ID.'),
                keyFile: formatted('absolute-path', 'The file that holds the key.'),
              },
              ['type', 'keyID', 'keyFile'],
              'Authentication; none when absent.',
            ),
          },
          [],
          'Bidirectional Forwarding Detection.',
        ),
        policies: list(
          object({
            name: formatted('policy-name', 'Its name in metrics; "policy-<index>" when absent.'),
            snat: withDefault(flag('false: forwarded unchanged, in both directions.'), true),
            ipBlocks: cidrs('Sources, addresses or CIDRs; absent: any.'),
            destinationCIDRs: cidrs('Destinations; absent: any.'),
            excludedCIDRs: cidrs('Destinations that are excepted.'),
            priority: withDefault(integer(0, INT32_MAX, 'The lower wins; then the order.'), 1000),
            egressIP: object(
              {
                address: {
                  ...list(formatted('host-address'), 'The addresses that sources get.'),
                  minItems: 1,
                },
                announce: withDefault(
                  {
                    type: ['boolean', 'string'],
                    enum: [true, false, 'arp', 'bgp'],
                    description:
                      'How the network learns of the addresses. arp: held on the external link (ARP, NDP); bgp: announced to the neighbours of spec.bgp; true: both where they apply; false: neither.',
                  },
                  true,
                ),
                owner,
                shared: withDefault(
                  flag('The addresses are those of the whole group: every member translates to them.'),
                  false,
                ),
              },
              ['address'],
              'The address that sources get; absent: that of the external interface.',
            ),
            portBlockSize: withDefault(integer(0, 64512, 'Ports for each source; 0: no blocks.'), 0),
            bandwidth: bandwidth('The limit of what the policy applies to.'),
          }),
          'What happens to which sources. The first match decides.',
        ),
        defaultAction: withDefault(
          oneOf(['masquerade', 'forward', 'drop'], 'What happens to all other packets from the VPC.'),
          'masquerade',
        ),
        eips: list(
          object(
            {
              externalIP: formatted('host-address', 'The address outside.'),
              internalIP: formatted('host-address', 'The address that it belongs to.'),
              owner,
              bandwidth: bandwidth('The limit of the address.'),
            },
            ['externalIP', 'internalIP'],
          ),
          'External addresses that belong wholly to an internal one, in both directions.',
        ),
        dnats: list(
          object(
            {
              externalIP: formatted('host-address', 'The address outside.'),
              protocol: oneOf(['tcp', 'udp', 'sctp'], 'The protocol.'),
              externalPort: ports,
              internalIP: formatted('host-address', 'The address that it leads to.'),
              internalPort: ports,
              preserveClientIP: withDefault(
                flag('Do not translate the source of inbound connections.'),
                false,
              ),
              owner,
            },
            ['externalIP', 'protocol', 'externalPort', 'internalIP', 'internalPort'],
          ),
          'Ports of external addresses that lead inside.',
        ),
        inbound: withDefault(
          oneOf(
            ['forwarded', 'any'],
            'Which destinations accept connections from outside: forwarded blocks, EIPs and DNATs, or everything inside.',
          ),
          'forwarded',
        ),
        limits: object(
          {
            connectionsPerSource: withDefault(
              integer(0, INT32_MAX, 'Connections that each source inside may have at once; 0: any number.'),
              0,
            ),
          },
          [],
          'Limits per source.',
        ),
        bandwidth: bandwidth('The limit of the whole gateway.'),
        mssClamp: withDefault(flag('Clamp the MSS of TCP to the path MTU.'), false),
        fastPath: withDefault(
          flag('Forward established TCP and UDP connections by a flowtable; needs translationLog.'),
          false,
        ),
        uplink: object(
          {
            probe: withDefault(
              oneOf(['arp', 'icmp', 'none'], 'How the external gateways are probed.'),
              'arp',
            ),
            interval: withDefault(formatted('duration', 'Between two probes, 10ms to 60s.'), '200ms'),
            failures: withDefault(integer(1, 100, 'Lost probes that make the uplink down.'), 3),
            targets: list(
              formatted('host-address'),
              'Further addresses to probe with ICMP; of those of a family one must answer.',
            ),
            recovery: withDefault(
              formatted(
                'duration',
                'How long all must work after a failure before BFD comes back, 0s to 10m.',
              ),
              '1s',
            ),
          },
          [],
          'What must work outside for BFD to be Up.',
        ),
        group: object(
          {
            members: {
              ...list(
                formatted('host-address'),
                'The internal addresses of all members, this one among them.',
              ),
              minItems: 1,
            },
            port: withDefault(integer(1, 65535, 'The TCP port of the exchange between members.'), 10_667),
            keyFile: formatted('absolute-path', 'The shared key: at least 32 octets.'),
            certFile: formatted('absolute-path', 'The certificate, in place of a shared key.'),
            certKeyFile: formatted('absolute-path', "The certificate's private key."),
            caFile: formatted('absolute-path', 'The CA of all members.'),
            minTX: withDefault(integer(1, 60000, 'BFD between members, milliseconds.'), 100),
            minRX: withDefault(integer(1, 60000, 'BFD between members, milliseconds.'), 100),
            multiplier: withDefault(integer(1, 255, 'Detect Mult.'), 3),
          },
          ['members'],
          'Gateways that share egress addresses, and keep each other’s connections.',
        ),
        bgp: object(
          {
            localASN: asn('The autonomous system of the gateway.'),
            routerID: formatted('ipv4-host', 'The BGP identifier; found by FRR when absent.'),
            neighbours: {
              ...list(
                object(
                  {
                    address: formatted('host-address', 'The router, of either family.'),
                    asn: asn('Its autonomous system.'),
                    passwordFile: formatted('absolute-path', 'The file that holds the password (RFC 2385).'),
                    holdTime: withDefault(formatted('duration', 'Whole seconds, 0s or 3s to 65535s.'), '9s'),
                    keepaliveTime: withDefault(
                      formatted('duration', 'Whole seconds, at most a third of holdTime.'),
                      '3s',
                    ),
                    ebgpMultihop: withDefault(integer(1, 255, 'Hops to the router.'), 1),
                    bfd: withDefault(flag('Also detect its failure by BFD.'), false),
                    gracefulRestart: withDefault(
                      flag('The router keeps the routes while FRR restarts (RFC 4724).'),
                      false,
                    ),
                  },
                  ['address', 'asn'],
                ),
                'The routers outside.',
              ),
              minItems: 1,
            },
            announce: withDefault(
              list(oneOf(ANNOUNCED), 'What the neighbours learn.'),
              ANNOUNCED.filter((one) => one !== 'forwarded'),
            ),
            required: withDefault(flag('true: the gateway is not ready without a session.'), false),
          },
          ['localASN', 'neighbours'],
          'What the routers outside learn by BGP. FRR runs the sessions.',
        ),
        evpn: object(
          {
            vni: integer(1, MAX_VNI, 'The VXLAN network identifier.'),
            routeTargets: {
              ...list(formatted('route-target'), 'Which routes are imported and exported: "65000:1016".'),
              minItems: 1,
            },
          },
          ['vni', 'routeTargets'],
          'A VXLAN tunnel to other sites, in place of translation; FRR exchanges the routes with the neighbours of bgp.',
        ),
        translationLog: TRANSLATION_LOG_SCHEMA,
      },
      ['internal', 'external'],
    ),
  }),
};

export const GATEWAY_POLICY_SCHEMAS: Schemas = { GatewayPolicy: GATEWAY_POLICY_SCHEMA };
