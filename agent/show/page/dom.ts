/**
 * The parts of a browser that the page's script uses (client.ts), as types. TypeScript's own `dom` library would
 * offer `document`, `name`, `status` and a thousand others to every file of the agent.
 */
export interface PageNode {
  readonly nodeType: number;
  nodeValue: string | null;
  readonly localName?: string;
}

export interface PageElement extends PageNode {
  readonly childNodes: ArrayLike<PageNode>;
  readonly attributes: Iterable<{ name: string }>;
  textContent: string | null;
  hidden: boolean;
  append(child: PageNode): void;
  replaceChild(fresh: PageNode, old: PageNode): void;
  removeChild(child: PageNode): void;
  getAttribute(name: string): string | null;
  setAttribute(name: string, value: string): void;
  removeAttribute(name: string): void;
  addEventListener(type: string, listener: (event: { preventDefault(): void }) => void): void;
}

export interface PageInput extends PageElement {
  value: string;
}

export interface Page {
  title: string;
  readonly hidden: boolean;
  readonly documentElement: PageElement;
  getElementById(id: string): PageInput | null;
  createElement(tag: string): PageElement;
  createElementNS(namespace: string, tag: string): PageElement;
  createTextNode(text: string): PageNode;
  addEventListener(type: string, listener: () => void): void;
}
